"""A table of which the database fills in much, on each database, for the tests of that.

Of an invoice a device writes ``title``, ``net``, ``state`` and perhaps ``priority``.  The database
makes ``priority`` where there is none, SQLAlchemy ``state``, which changes with each update.
``gross`` is computed, a trigger counts ``version``, which no device may write, and makes the
``title`` lower case.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import Column, Computed, Integer, MetaData, String, Table, text
from sqlalchemy.engine import Connection

SERVER_COLUMNS = {"invoices": ["version"]}

TRIGGERS = {
    "sqlite": [
        "CREATE TRIGGER invoices_i AFTER INSERT ON invoices BEGIN UPDATE invoices SET version = 1,"
        " title = lower(NEW.title) WHERE id = NEW.id; END",
        "CREATE TRIGGER invoices_u AFTER UPDATE ON invoices WHEN NEW.version IS OLD.version BEGIN"
        " UPDATE invoices SET version = OLD.version + 1, title = lower(NEW.title)"
        " WHERE id = NEW.id; END",
    ],
    "postgresql": [
        "CREATE FUNCTION invoices_w() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
        " NEW.version := CASE TG_OP WHEN 'INSERT' THEN 1 ELSE OLD.version + 1 END;"
        " NEW.title := lower(NEW.title); RETURN NEW; END $$",
        "CREATE TRIGGER invoices_w BEFORE INSERT OR UPDATE ON invoices"
        " FOR EACH ROW EXECUTE FUNCTION invoices_w()",
    ],
    "mariadb": [
        "CREATE TRIGGER invoices_i BEFORE INSERT ON invoices FOR EACH ROW"
        " SET NEW.version = 1, NEW.title = LOWER(NEW.title)",
        "CREATE TRIGGER invoices_u BEFORE UPDATE ON invoices FOR EACH ROW"
        " SET NEW.version = OLD.version + 1, NEW.title = LOWER(NEW.title)",
    ],
}


def invoice_table(metadata: MetaData) -> Table:
    return Table(
        "invoices",
        metadata,
        Column("id", String(40), primary_key=True),
        Column("owner", String(40), nullable=False),
        Column("title", String(40)),
        Column("net", Integer),
        Column("priority", Integer, nullable=False, server_default="3"),
        Column("state", String(10), default="draft", onupdate="changed"),
        Column("gross", Integer, Computed("net + 20", persisted=True)),
        Column("version", Integer),
    )


def create_invoice_triggers(connection: Connection, kind: str) -> None:
    for statement in TRIGGERS[kind]:
        connection.execute(text(statement.replace(":=", "\\:=")))


def made(id_: str, version: int = 1, **row: Any) -> dict[str, Any]:
    """The row of an invoice of 100, as the database has it."""
    whole = {"title": None, "net": 100, "priority": 3, "state": "draft", "gross": 120}
    return {"id": id_, "version": version, **whole, **row}
