"""What `mobync serve` was told, and how its workers come to know."""

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
        secret_file: where the secret is that signs tokens; None: in the environment.
        workers: processes that serve.
        threads: syncs at the same time in each of them.
        max_body_bytes: bytes that a request may have.
        max_connections: that are open at the same time in each of them.
        stop_timeout_s: seconds that running syncs have to end when it is told to stop.
        events: who tells of moved logs: ``auto``, ``off``, or the URL of a Redis server.
        events_url: URL of the PostgreSQL server that tells of them; None: as ``events`` says.
        inspector: who may look: who has an administrator's token (``token``), a browser on this
            machine too (``without-token``), or nobody (``off``).
        inspector_code: file of the code of the link that opens the inspector once; None: no link.
        log_format: one of ``mobync.server.logs.FORMATS``.
        static: paths, each with the directory whose files are served there.
        watermelon_times: by table of WatermelonDB the column with the time of a record's last edit.
        allow_origin: origins whose scripts a browser lets speak to the endpoint.
        jwt_secret_file: where the secret is that the app signs its JWTs with; None: in the
            environment, or there is none.
        jwks: URL or file of the keys that verify JWTs; None: there are none.
        jwt_owner_claim: the claim that is the owner's id.
        jwt_audience: for whom JWTs may be.
        jwt_issuer: who must have issued them; None: whoever has the secret or a key.
    """

    database: str
    secret_file: str | None
    workers: int = 1
    threads: int = 10
    max_body_bytes: int = 32 * 1024 * 1024
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
        """Leave the settings for this process's workers, and for itself."""
        os.environ[_VARIABLE] = json.dumps(asdict(self))

    @classmethod
    def from_environment(cls) -> Settings:
        """The settings that ``to_environment`` left."""
        return cls(**json.loads(os.environ[_VARIABLE]))
