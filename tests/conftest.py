"""For all tests: Ctrl-C works in the programs that they start.

A shell starts what it runs in the background with SIGINT ignored, and children inherit that.
"""

import signal

signal.signal(signal.SIGINT, signal.default_int_handler)
