"""Shared by all stores in relational databases, whichever library they use."""
