"""The settings of `mobync serve`, and how its workers get them."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field

INSPECTOR_MODES = ("token", "without-token", "off")

_VARIABLE = "MOBYNC_SERVE"


@dataclass(frozen=True)
class Settings:
    """How to serve.

    Attributes:
        database: URL of the database, as SQLAlchemy reads it, with its password.
        secret_file: the file of the secret that signs tokens; None: it is in the environment.
        workers: processes that serve.
        threads: syncs at the same time in each of them.
        max_body_bytes: bytes that a request may have.
        max_request_bytes: bytes that a request in parts may have in all.
        max_connections: connections that are open at the same time in each of them.
        stop_timeout_s: seconds that running syncs have to end when the server stops.
        events: how processes tell each other about syncs: ``auto``, ``off``, or the URL of a Redis
            server.
        events_url: the URL of the PostgreSQL server for events; None: as ``events`` says.
        inspector: who may look: those with an administrator's token (``token``), also a browser on
            this machine (``without-token``), or nobody (``off``).
        inspector_code: file of the code of the link that opens the inspector once; None: no link.
        log_format: one of ``mobync.server.logs.FORMATS``.
        static: paths, each with the directory whose files are served there.
        watermelon_times: for each table of WatermelonDB, the column with the time of a record's
            last edit.
        allow_origin: origins whose scripts may use the endpoint.
        jwt_secret_file: the file of the secret that signs the app's JWTs; None: it is in the
            environment, or there is none.
        jwks: the URL or file of the keys that verify JWTs; None: there are none.
        jwt_owner_claim: the claim that is the owner's id.
        jwt_audience: the audiences of which a JWT must name one.
        jwt_issuer: the issuer that a JWT must name; None: any.
    """

    database: str
    secret_file: str | None
    workers: int = 1
    threads: int = 10
    max_body_bytes: int = 32 * 1024 * 1024
    max_request_bytes: int = 256 * 1024 * 1024
    max_connections: int = 1000
    stop_timeout_s: float = 30.0
    events: str = "auto"
    events_url: str | None = None
    inspector: str = "token"
    inspector_code: str | None = None
    log_format: str = "auto"
    static: Sequence[tuple[str, str]] = ()
    watermelon_times: Mapping[str, str] = field(default_factory=dict)
    allow_origin: Sequence[str] = ()
    jwt_secret_file: str | None = None
    jwks: str | None = None
    jwt_owner_claim: str = "sub"
    jwt_audience: Sequence[str] = ()
    jwt_issuer: str | None = None

    def to_environment(self) -> None:
        """Put the settings into the environment, for this process and its workers."""
        os.environ[_VARIABLE] = json.dumps(asdict(self))

    @classmethod
    def from_environment(cls) -> Settings:
        """The settings that ``to_environment`` has put there."""
        return cls(**json.loads(os.environ[_VARIABLE]))
