"""`mobync serve`."""

from __future__ import annotations

import logging
import os
import re
import signal
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import click

from .._extras import install
from ..sqlalchemy import DocumentSynchronizer
from . import logs
from ._access import access_options, check_access
from ._live import live_of
from ._shared import check_text, database_option, secret_file_of, secret_file_option
from .database import database_url, make_tables, open_database, shown
from .pushes import beside_log
from .settings import INSPECTOR_MODES, Settings
from .tokens import load_tokens

MIB = 1024 * 1024
_STATIC_PATH = re.compile(r"(/[A-Za-z0-9._~-]+)+")
_OWN_PATHS = ("/sync", "/health", "/metrics", "/static")
_EXTRAS = {"psycopg": "live-postgresql", "redis": "live-redis"}


def _check_static(
    context: click.Context, parameter: click.Parameter, given: Sequence[str]
) -> list[tuple[str, str]]:
    """Split paths and directories."""
    found = []
    for text in given:
        path, equals, directory = text.partition("=")
        if not (equals and _STATIC_PATH.fullmatch(path)) or path in _OWN_PATHS:
            raise click.BadParameter(f"must be like /app=DIRECTORY, not {text!r}")
        if not Path(directory).is_dir():
            raise click.BadParameter(f"{directory!r} is not a directory")
        found.append((path, str(Path(directory).resolve())))
    return found


def _check_time_columns(
    context: click.Context, parameter: click.Parameter, given: Sequence[str]
) -> dict[str, str]:
    """Split tables and columns."""
    found: dict[str, str] = {}
    for text in given:
        table, _, column = text.partition("=")
        if not (table and column):
            raise click.BadParameter(f"must be like TABLE=COLUMN, not {text!r}")
        if table in found:
            raise click.BadParameter(f"the table {table!r} is named twice")
        found[table] = column
    return found


def _now_called(context: click.Context, parameter: click.Parameter, mode: str) -> str:
    """The mode of an inspector, also by its name in mobync 1.0."""
    return "without-token" if mode == "loopback" else mode


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
    "--workers", type=click.IntRange(1), default=1, show_default=True, help="Number of processes."
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
    help="The largest request, in MiB.",
)
@click.option(
    "--max-request-mib",
    type=click.IntRange(1, 8192),
    default=256,
    show_default=True,
    help="The largest request that a device sends in parts, in MiB. Each part is at most as large "
    "as --max-body-mib.",
)
@click.option(
    "--max-connections",
    type=click.IntRange(1),
    default=1000,
    show_default=True,
    help="Connections that may be open at the same time in each process.",
)
@click.option(
    "--events",
    metavar="auto|off|redis://…",
    default="auto",
    show_default=True,
    callback=check_text,
    help="How processes tell each other about syncs. auto: through PostgreSQL if the database is "
    "PostgreSQL, otherwise by asking the database from time to time.",
)
@click.option(
    "--events-url",
    metavar="postgresql://…",
    callback=check_text,
    envvar="MOBYNC_EVENTS_URL",
    help="The URL of PostgreSQL for events, if the database is behind a pooler (PgBouncer).",
)
@click.option(
    "--inspector",
    type=click.Choice([*INSPECTOR_MODES, "loopback"]),
    metavar=f"[{'|'.join(INSPECTOR_MODES)}]",
    callback=_now_called,
    default="token",
    show_default=True,
    help="Who may open the inspector at /. token: people with an administrator's token, or with "
    "the link that is printed in a terminal. without-token: also any browser on this machine; "
    "behind a proxy on this machine, that is everyone.",
)
@click.option(
    "--print-link",
    is_flag=True,
    help="Print the link that opens the inspector once, even if stderr is not a terminal.",
)
@click.option(
    "--log-format",
    type=click.Choice(logs.FORMATS),
    default="auto",
    show_default=True,
    help="auto: text in a terminal, otherwise JSON.",
)
@click.option(
    "--stop-timeout",
    type=click.IntRange(0),
    default=30,
    show_default=True,
    metavar="SECONDS",
    help="How long to wait for running syncs before it stops. The rest is rolled back.",
)
@click.option(
    "--static",
    metavar="/PATH=DIRECTORY",
    multiple=True,
    callback=_check_static,
    help="Serve the files of a directory at a path: the pages of an app that syncs. Can be given "
    "several times.",
)
@click.option(
    "--watermelon-time-column",
    metavar="TABLE=COLUMN",
    multiple=True,
    callback=_check_time_columns,
    help="The column with the time of the last edit of WatermelonDB's records, in milliseconds. "
    "Without it, an edit counts as made when it arrives. Can be given several times.",
)
@access_options
def serve(
    database: str,
    secret_file: Path | None,
    host: str,
    port: int,
    workers: int,
    threads: int,
    max_body_mib: int,
    max_request_mib: int,
    max_connections: int,
    events: str,
    events_url: str | None,
    inspector: str,
    print_link: bool,
    log_format: str,
    stop_timeout: int,
    watermelon_time_column: dict[str, str],
    **access: Any,
) -> None:
    """Serve devices: POST /sync, GET /sync/events; and /health, /metrics, the inspector at /.

    The server keeps objects of any model as JSON documents, separately for each owner. You declare
    nothing, and it makes missing tables. SIGTERM and Ctrl-C stop it when running syncs are done.
    """
    _check_events(events, events_url)
    url = database_url(database)
    file = secret_file_of(secret_file, database)
    load_tokens(file)
    with open_database(url) as engine:
        store = DocumentSynchronizer(engine)
        make_tables(store, engine)
        for table in beside_log(engine, store):
            table.make()
    settings = Settings(
        database=database,
        secret_file=None if file is None else str(file.resolve()),
        workers=workers,
        threads=threads,
        max_body_bytes=max_body_mib * MIB,
        max_request_bytes=max_request_mib * MIB,
        max_connections=max_connections,
        stop_timeout_s=stop_timeout,
        events=events,
        events_url=events_url,
        inspector=inspector,
        log_format=log_format,
        watermelon_times=watermelon_time_column,
        **access,
    )
    _check_live(settings)
    logs.configure(log_format)
    check_access(settings)
    logs.logger.info("starting", extra={"fields": {"database": shown(url), "workers": workers}})
    # The server ends with the signal that stopped it. A stop on request is not a failure.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(0))
    with ExitStack() as running:
        if workers > 1:
            running.enter_context(_shared_metrics())
        if inspector == "token" and (print_link or sys.stderr.isatty()):
            settings = running.enter_context(_link_of_inspector(settings))
        settings.to_environment()
        running.enter_context(_failing_with_1())
        _run(host, port, workers)


def _run(host: str, port: int, workers: int) -> None:
    import uvicorn

    from ._connections import BACKLOG, LimitedProtocol

    uvicorn.run(
        "mobync.server.app:from_environment",
        factory=True,
        host=host,
        port=port,
        workers=workers,
        http=LimitedProtocol,
        ws="none",
        backlog=BACKLOG,
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
    )


def _check_live(settings: Settings) -> None:
    """Find out now whether live updates work, before a device listens."""
    # This may come from another program's environment. It is read when the counters are imported,
    # in the next line.
    os.environ.pop("PROMETHEUS_MULTIPROC_DIR", None)
    try:
        import_module("mobync.server.app")  # slow, and of no use to the other commands
        live_of(settings)
    except ImportError as error:
        extra = _EXTRAS.get(error.name or "", "server")
        raise click.ClickException(
            f"--events {settings.events} needs {error.name or error}: {install(extra)}"
        ) from error
    except ValueError as error:
        option = "--events" if settings.events_url is None else "--events-url"
        raise click.BadParameter(str(error), param_hint=option) from error


def _check_events(events: str, events_url: str | None) -> None:
    if events not in ("auto", "off") and not events.startswith(
        ("redis://", "rediss://", "unix://")
    ):
        raise click.BadParameter("must be auto, off or a URL redis://…", param_hint="--events")
    if events_url is not None:
        _check_events_url(events_url, events)


def _check_events_url(events_url: str, events: str) -> None:
    if events != "auto":
        raise click.BadParameter(f"--events {events} needs none", param_hint="--events-url")
    if database_url(events_url).get_backend_name() != "postgresql":
        raise click.BadParameter("must be a URL postgresql://…", param_hint="--events-url")


@contextmanager
def _failing_with_1() -> Iterator[None]:
    """Map uvicorn's exit codes to ours; 3 is one of its own."""
    try:
        yield
    except SystemExit as end:
        sys.exit(1 if end.code else 0)


@contextmanager
def _link_of_inspector(settings: Settings) -> Iterator[Settings]:
    """Log a link that opens the inspector once, when the server listens."""
    from ._admission import LinkHandler, OneTimeCode

    with tempfile.TemporaryDirectory(prefix="mobync-inspector-") as directory:
        file = Path(directory, "code")
        code = OneTimeCode(file).make()
        logging.getLogger("uvicorn.error").addHandler(LinkHandler(code, logs.logger))
        yield replace(settings, inspector_code=str(file))


@contextmanager
def _shared_metrics() -> Iterator[None]:
    """A directory for the counts of all workers, for as long as they run."""
    with tempfile.TemporaryDirectory(prefix="mobync-metrics-") as directory:
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = directory
        yield
