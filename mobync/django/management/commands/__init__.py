"""What manage.py can do for mobync."""
