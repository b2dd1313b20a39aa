"""What `mobync serve` was told, and how its workers come to know."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass

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
        events: who tells of moved logs: ``auto``, ``off``, or the URL of a Redis server.
        inspector: who may look: ``loopback`` (or who has an administrator's token), ``token``, or
            ``off`` for nobody.
        log_format: one of ``mobync.server.logs.FORMATS``.
    """

    database: str
    secret_file: str | None
    workers: int = 1
    threads: int = 10
    max_body_bytes: int = 32 * 1024 * 1024
    events: str = "auto"
    inspector: str = "loopback"
    log_format: str = "auto"

    def to_environment(self) -> None:
        """Leave the settings for this process's workers, and for itself."""
        os.environ[_VARIABLE] = json.dumps(asdict(self))

    @classmethod
    def from_environment(cls) -> Settings:
        """The settings that ``to_environment`` left."""
        return cls(**json.loads(os.environ[_VARIABLE]))
