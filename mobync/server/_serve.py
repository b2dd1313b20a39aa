"""`mobync serve`."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import click

from ..sqlalchemy import DocumentSynchronizer
from . import logs
from ._shared import check_text, database_option, secret_file_of, secret_file_option
from .database import database_url, make_tables, open_database, shown
from .settings import Settings
from .tokens import load_tokens

MIB = 1024 * 1024
_EXTRAS = {"psycopg": "live-postgresql", "redis": "live-redis"}


@click.command(short_help="Serve devices over HTTP.")
@database_option
@secret_file_option
@click.option(
    "--host",
    default="127.0.0.1",
    show_default=True,
    callback=check_text,
    help="Address to listen on.",
)
@click.option(
    "--port", type=click.IntRange(0, 65535), default=8000, show_default=True, envvar="PORT"
)
@click.option(
    "--workers", type=click.IntRange(1), default=1, show_default=True, help="Processes that serve."
)
@click.option(
    "--threads",
    type=click.IntRange(1),
    default=10,
    show_default=True,
    help="Syncs at the same time in each process; each takes a database connection.",
)
@click.option(
    "--max-body-mib",
    type=click.IntRange(1, 1024),
    default=32,
    show_default=True,
    help="MiB that a request may have.",
)
@click.option(
    "--events",
    metavar="auto|off|redis://…",
    default="auto",
    show_default=True,
    callback=check_text,
    help="How processes tell each other's devices that a log has moved. auto: through PostgreSQL "
    "if the database is one, else by looking now and then.",
)
@click.option(
    "--inspector",
    type=click.Choice(["loopback", "token", "off"]),
    default="loopback",
    show_default=True,
    help="Who may look at the page at /: anybody on this machine, or only who has an "
    "administrator's token.  Behind a proxy on this machine, say token.",
)
@click.option(
    "--log-format",
    type=click.Choice(logs.FORMATS),
    default="auto",
    show_default=True,
    help="auto: text on a terminal, JSON elsewhere.",
)
@click.option(
    "--stop-timeout",
    type=click.IntRange(0),
    default=30,
    show_default=True,
    metavar="SECONDS",
    help="How long to wait for running syncs when told to stop.",
)
def serve(
    database: str,
    secret_file: Path | None,
    host: str,
    port: int,
    workers: int,
    threads: int,
    max_body_mib: int,
    events: str,
    inspector: str,
    log_format: str,
    stop_timeout: int,
) -> None:
    """Serve devices: POST /sync, GET /sync/events; and /health, /metrics, the inspector at /.

    Objects of any model are kept as JSON documents, for each owner apart.  Nothing has to be
    declared; tables that are missing are made.  SIGTERM and Ctrl-C stop it once running syncs
    are done.
    """
    if events not in ("auto", "off") and not events.startswith(
        ("redis://", "rediss://", "unix://")
    ):
        raise click.BadParameter("must be auto, off or a URL redis://…", param_hint="--events")
    url = database_url(database)
    file = secret_file_of(secret_file, database)
    load_tokens(file)
    with open_database(url) as engine:
        make_tables(DocumentSynchronizer(engine), engine)
    settings = Settings(
        database=database,
        secret_file=None if file is None else str(file.resolve()),
        workers=workers,
        threads=threads,
        max_body_bytes=max_body_mib * MIB,
        events=events,
        inspector=inspector,
        log_format=log_format,
    )
    # Of another program's environment; read when the counters are imported, in the next lines.
    os.environ.pop("PROMETHEUS_MULTIPROC_DIR", None)
    import uvicorn  # both are slow, and of no use to the other commands

    from .app import live_of

    try:
        live_of(settings)
    except ImportError as error:
        extra = _EXTRAS.get(error.name or "", "server")
        raise click.ClickException(
            f"--events {events} needs {error.name or error}: pip install 'mobync[{extra}]'"
        ) from error
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--events") from error

    settings.to_environment()
    logs.configure(log_format)
    logs.logger.info("starting", extra={"fields": {"database": shown(url), "workers": workers}})
    # The server ends by the signal that stopped it; having stopped as told is no failure.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(0))
    with _shared_metrics() if workers > 1 else nullcontext(), _failing_with_1():
        uvicorn.run(
            "mobync.server.app:from_environment",
            factory=True,
            host=host,
            port=port,
            workers=workers,
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            timeout_graceful_shutdown=stop_timeout,
        )


@contextmanager
def _failing_with_1() -> Iterator[None]:
    """Give uvicorn's exit codes the meaning that ours have; 3 is one of its own."""
    try:
        yield
    except SystemExit as end:
        sys.exit(1 if end.code else 0)


@contextmanager
def _shared_metrics() -> Iterator[None]:
    """A directory in which the workers' counts come together, as long as they run."""
    with tempfile.TemporaryDirectory(prefix="mobync-metrics-") as directory:
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = directory
        yield
