"""A task list with projects that syncs: Flask, Flask-SQLAlchemy and a database that stays.

    python examples/relational/app.py               serves http://127.0.0.1:5000/sync
    python examples/relational/app.py token anna    prints a token for anna's devices

What a real app has and ../in_memory has not: tables with a foreign key, tokens that are signed and
expire, and several processes over one database.  The environment says where and how:

    DATABASE_URL        default: the SQLite file mobync.db beside this one
    SECRET_KEY          signs the tokens; by default one is made, and kept beside the SQLite file
    TOKEN_LIFETIME_S    seconds that a token is good for; default 30 days
    PORT                default 5000
"""

import argparse
import json
import os
import secrets
import sqlite3
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flask import Flask
from flask_sqlalchemy import SQLAlchemy
from itsdangerous import BadData, SignatureExpired, URLSafeTimedSerializer
from sqlalchemy import ForeignKeyConstraint, String, event, false
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError
from sqlalchemy.orm import Mapped, mapped_column

from mobync import InvalidDiffError, Mobync
from mobync.http import Endpoint, ExpiredTokenError
from mobync.http.flask import MobyncSync
from mobync.sqlalchemy import SQLAlchemySynchronizer, create_tables, diffs_table

sys.path.append(str(Path(__file__).resolve().parents[1]))
from serving import log_syncs, serve

DEFAULT_FILE = Path(__file__).resolve().with_name("mobync.db")
DEFAULT_TOKEN_LIFETIME_S = 30 * 24 * 3600
MAX_OWNER_LENGTH = 255  # characters

# Hosts name a database by its kind; SQLAlchemy wants to know the driver, too.
DRIVERS = {
    "postgres": "postgresql+psycopg",
    "postgresql": "postgresql+psycopg",
    "mysql": "mysql+pymysql",
    "mariadb": "mariadb+pymysql",
}

# ---- tables -------------------------------------------------------------------------------------

db = SQLAlchemy()

# Else MariaDB and MySQL take the ids "a" and "A" for the same.
BY_BYTES = {
    f"{kind}_{option}": value
    for kind in ("mysql", "mariadb")
    for option, value in {"charset": "utf8mb4", "collate": "utf8mb4_bin"}.items()
}


class Project(db.Model):  # type: ignore[name-defined, misc]
    """Devices archive a project; they do not delete it (see TaskStore)."""

    __tablename__ = "projects"
    __table_args__ = (BY_BYTES,)

    owner: Mapped[str] = mapped_column(String(MAX_OWNER_LENGTH), primary_key=True)
    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    name: Mapped[str] = mapped_column(String(200))
    archived: Mapped[bool] = mapped_column(server_default=false())


class Task(db.Model):  # type: ignore[name-defined, misc]
    """A task, in a project of the same owner or in none."""

    __tablename__ = "tasks"

    owner: Mapped[str] = mapped_column(String(MAX_OWNER_LENGTH), primary_key=True)
    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    name: Mapped[str] = mapped_column(String(200))
    done: Mapped[bool] = mapped_column(server_default=false())
    project_id: Mapped[str | None] = mapped_column(String(64))

    # The owner is a part of the keys, so nobody can file a task under another's project.
    __table_args__ = (
        ForeignKeyConstraint(["owner", "project_id"], ["projects.owner", "projects.id"]),
        BY_BYTES,
    )


diffs_table(db.metadata)

# ---- rules --------------------------------------------------------------------------------------


class TaskStore(SQLAlchemySynchronizer):
    """Whose a row is, which fields it has and what fits into them is checked by the adapter; left
    is what only this app knows.

    A project is never deleted by a device.  Another device, offline, may be filing a task under
    it: then the foreign key would refuse that task, and a database that deletes or changes the
    tasks by itself (ON DELETE) would not tell the devices.  A project that is out of
    use is archived, which is an edit like any other.
    """

    def validate_create(self, owner_id: str, **diff: Any) -> bool:
        return _has_no_blank_name(diff["json_data"])

    def validate_update(self, owner_id: str, **diff: Any) -> bool:
        return _has_no_blank_name(diff["json_data"])

    def validate_delete(self, owner_id: str, **diff: Any) -> bool:
        return bool(diff["model"] != "projects")

    def create_many(self, where: str, rows_json: Sequence[str]) -> None:
        self._check_projects(where, rows_json)
        super().create_many(where, rows_json)

    def update_many(self, where: str, rows_json: Sequence[str]) -> None:
        self._check_projects(where, rows_json)
        super().update_many(where, rows_json)

    def _check_projects(self, where: str, rows_json: Sequence[str]) -> None:
        """Say which project is missing, where the database would only say that one is.

        Here and not in a rule: rules are asked before anything is written, and the project may
        come in the same sync, even after the task.  The adapter writes it before, as the foreign
        key needs it.
        """
        if where != "tasks":
            return
        named = [_text(row_json, "project_id") for row_json in rows_json]
        if not any(named):
            return
        there = {None, *(project["id"] for project in self.read("projects"))}
        for place, project_id in enumerate(named):
            if project_id not in there:
                raise InvalidDiffError(
                    f"'project_id': there is no project {project_id!r:.100}", place
                )


def _has_no_blank_name(json_data: str) -> bool:
    name = _text(json_data, "name")
    return name is None or bool(name.strip())


def _text(json_data: str, field: str) -> str | None:
    """A field that is text.  None for what is not: the adapter refuses that, by name."""
    try:
        value = json.loads(json_data).get(field)
    except (ValueError, RecursionError):  # a number of thousands of digits, hundreds of brackets
        return None
    return value if isinstance(value, str) else None


# ---- tokens -------------------------------------------------------------------------------------


class Tokens:
    """Tokens that name an owner, signed so that nobody else can make them.

    Args:
        secret_key: who has it can make tokens.
        lifetime_s: seconds that a token is good for.
    """

    def __init__(self, secret_key: str, lifetime_s: int) -> None:
        self._signed = URLSafeTimedSerializer(secret_key, salt="mobync example token")
        self._lifetime_s = lifetime_s

    def issue(self, owner_id: str) -> str:
        """Make a token, as your app would after a login."""
        if not 0 < len(owner_id) <= MAX_OWNER_LENGTH or not owner_id.isprintable():
            raise ValueError(f"an owner has 1 to {MAX_OWNER_LENGTH} printable characters")
        if owner_id != owner_id.strip():
            raise ValueError("an owner neither begins nor ends with a space")
        token = self._signed.dumps(owner_id)
        return token if isinstance(token, str) else token.decode()

    def owner_of(self, token: str | None, headers: Mapping[str, str]) -> str | None:
        """The owner whom a token stands for; None for one that is not ours.

        Args:
            token: as the device sent it.
            headers: of its request; not looked at.

        Raises:
            ExpiredTokenError: it is ours, and no longer good.
        """
        if token is None:
            return None
        try:
            return str(self._signed.loads(token, max_age=self._lifetime_s))
        except SignatureExpired:
            raise ExpiredTokenError from None
        except BadData:
            return None


# ---- settings -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Settings:
    """What differs between one installation and another."""

    database_url: URL
    secret_key: str
    token_lifetime_s: int = DEFAULT_TOKEN_LIFETIME_S

    @classmethod
    def of_environment(cls) -> "Settings":
        """Read the environment; ends the program with a line that says what is wrong in it."""
        url = _database_url(os.environ.get("DATABASE_URL") or f"sqlite:///{DEFAULT_FILE}")
        lifetime = os.environ.get("TOKEN_LIFETIME_S", str(DEFAULT_TOKEN_LIFETIME_S))
        if not (lifetime.isascii() and lifetime.isdigit()):
            sys.exit(f"TOKEN_LIFETIME_S must be a number of seconds, not {lifetime!r}")
        return cls(url, os.environ.get("SECRET_KEY") or _kept_key(url), int(lifetime))

    def tokens(self) -> Tokens:
        return Tokens(self.secret_key, self.token_lifetime_s)


def _database_url(text: str) -> URL:
    try:
        url = make_url(text)
    except ArgumentError:
        sys.exit("DATABASE_URL must look like postgresql://user:password@host/database")
    if url.get_backend_name() == "sqlite":
        if url.database in (None, "", ":memory:"):
            sys.exit("DATABASE_URL must name a file, as sqlite:////var/lib/tasks.db does")
        url = url.set(database=str(Path(str(url.database)).resolve()))
    return url.set(drivername=DRIVERS.get(url.drivername, url.drivername))


def _kept_key(url: URL) -> str:
    """A key for development, made once and kept beside the SQLite file."""
    if url.get_backend_name() != "sqlite":
        sys.exit(
            "SECRET_KEY must be set where DATABASE_URL names a server; make one with: "
            "python -c 'import secrets; print(secrets.token_hex(32))'"
        )
    path = Path(f"{url.database}.secret")
    if not path.exists():
        descriptor, made = tempfile.mkstemp(dir=path.parent)  # only we can read it
        with os.fdopen(descriptor, "w") as file:
            file.write(secrets.token_hex(32))
        with suppress(FileExistsError):  # another process was quicker: its key it is
            os.link(made, path)
        os.unlink(made)
    return path.read_text()


# ---- the app ------------------------------------------------------------------------------------


def create_app(settings: Settings | None = None, lock_timeout_s: float = 10.0) -> Flask:
    """Make the app, and its tables where they are missing.

    Args:
        settings: where and how; None asks the environment.
        lock_timeout_s: seconds that a sync waits for another one of the same owner.
    """
    settings = settings or Settings.of_environment()
    log_syncs()
    app = Flask(__name__)
    app.config["SQLALCHEMY_DATABASE_URI"] = settings.database_url
    app.config["SQLALCHEMY_ENGINE_OPTIONS"] = {"pool_pre_ping": True}  # the server may restart
    db.init_app(app)
    with app.app_context():
        event.listen(db.engine, "connect", _enforce_foreign_keys)
        create_tables(db.engine, db.metadata)
        db.engine.dispose()  # processes that are forked from here must not share connections
    store = TaskStore(db, {"projects": Project, "tasks": Task}, lock_timeout_s=lock_timeout_s)
    mobync = Mobync(store, lock_timeout_s=lock_timeout_s)
    MobyncSync(app, Endpoint(mobync, settings.tokens().owner_of))
    return app


def _enforce_foreign_keys(connection: Any, record: Any) -> None:
    if isinstance(connection, sqlite3.Connection):
        connection.execute("PRAGMA foreign_keys = ON")


def main() -> None:
    parser = argparse.ArgumentParser(description="Serve a task list that syncs.")
    commands = parser.add_subparsers(dest="command")
    token = commands.add_parser("token", help="print a token for an owner's devices")
    token.add_argument("owner")
    arguments = parser.parse_args()
    if arguments.command is None:
        serve(create_app)
        return
    try:
        print(Settings.of_environment().tokens().issue(arguments.owner))
    except ValueError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
