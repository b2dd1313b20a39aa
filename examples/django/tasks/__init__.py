"""Tasks of users."""
