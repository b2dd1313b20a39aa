"""Live updates: a device learns at once that its owner's log has moved.

One object a process. ``mobync.listen(live.announce)`` tells it of every sync; ``live.events`` and
``live.blocking_events`` are the bodies of the responses to devices that listen (Server-Sent
Events).  Which of the three depends on what the app's processes share:

- :class:`InProcessLive`: there is one process.
- :class:`PostgreSQLLive`: a PostgreSQL server (LISTEN and NOTIFY).
- :class:`RedisLive`: a Redis or Valkey server (PUBLISH and SUBSCRIBE).
"""

from ._live import InProcessLive, Live
from ._postgresql import PostgreSQLLive
from ._redis import RedisLive

__all__ = ["InProcessLive", "Live", "PostgreSQLLive", "RedisLive"]
