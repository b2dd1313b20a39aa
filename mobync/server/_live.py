"""Makes the object that tells devices about syncs, from the settings of `mobync serve`."""

from __future__ import annotations

from sqlalchemy.engine import URL

from ..live import InProcessLive, Live, PostgreSQLLive, RedisLive
from .database import PREPARE_THRESHOLD, database_url
from .settings import Settings

RECHECK_S = 2.0  # how late a device learns of a sync at another worker without a broker


def live_of(settings: Settings) -> Live | None:
    """The object that tells devices that a log has grown; None for ``off``.

    Raises:
        ImportError: the broker's client is not installed.
        ValueError: the broker's URL cannot be used.
    """
    if settings.events_url is not None:
        return PostgreSQLLive(_conninfo(database_url(settings.events_url)))
    url = database_url(settings.database)
    if settings.events == "off":
        return None
    if settings.events != "auto":
        return RedisLive(settings.events)
    if url.get_backend_name() == "postgresql":
        return PostgreSQLLive(_conninfo(url))
    if settings.workers == 1:
        return InProcessLive()
    return InProcessLive(recheck_s=RECHECK_S)


def _conninfo(url: URL) -> str:
    """The connection string of libpq that means the same as a URL of SQLAlchemy.

    libpq would read the URL itself differently: SQLAlchemy does not decode spaces, and names
    several hosts in its own way.

    Raises:
        ImportError: psycopg is not installed.
        ValueError: the URL has options of SQLAlchemy's driver that libpq does not have.
    """
    import psycopg
    from psycopg.conninfo import make_conninfo

    dialect = url.set(drivername="postgresql+psycopg").get_dialect()()
    _, parameters = dialect.create_connect_args(url)
    for of_the_driver in ("context", PREPARE_THRESHOLD):
        parameters.pop(of_the_driver, None)
    try:
        return make_conninfo("", **parameters)
    except psycopg.ProgrammingError:  # its message may hold the password
        raise ValueError("the URL of the database has an option that LISTEN cannot have") from None
