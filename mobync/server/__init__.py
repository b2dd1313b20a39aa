"""The server that `mobync serve` runs."""
