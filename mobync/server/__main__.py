"""`python -m mobync.server`: the command `mobync`."""

from .cli import main

if __name__ == "__main__":
    main()
