"""Live updates: a device learns at once that its owner's log has grown.

Make one object in each process. ``mobync.listen(live.announce)`` tells it about every sync.
``live.events`` and ``live.blocking_events`` are the bodies of the responses to listening devices
(Server-Sent Events). Choose one of the three by what the app's processes share:

- :class:`InProcessLive`: there is one process.
- :class:`PostgreSQLLive`: a PostgreSQL server (LISTEN and NOTIFY).
- :class:`RedisLive`: a Redis or Valkey server (PUBLISH and SUBSCRIBE).
"""

from ._live import InProcessLive, Live
from ._postgresql import PostgreSQLLive
from ._redis import RedisLive

__all__ = ["InProcessLive", "Live", "PostgreSQLLive", "RedisLive"]
