"""Random histories of several devices against the real package: do all end with the same rows?

    python -m simulation --runs 10000 --seed 1        (in tests/; or `make simulate` in the root)

A *history* is a list of events: a device edits, a request is sent, delivered, lost, delivered once
more, a reply is received or lost, a clock jumps, a device is restored from a backup.  Every event
names all that it needs, so any sub-list of a history is a history too: that is how a failing one
is shrunk.  The same history always plays the same way.
"""
