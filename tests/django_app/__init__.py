"""An app of Django for tests; its tables are made by tests that need them."""
