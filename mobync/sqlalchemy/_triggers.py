"""The statements of the triggers that note rows that something other than mobync has written."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import Table
from sqlalchemy.engine import Dialect
from sqlalchemy.sql.compiler import IdentifierPreparer

from ._cascades import Cascade, Gone, matches
from ._model import Model
from ._tables import KEY_LENGTH
from ._values import is_mysql

if TYPE_CHECKING:
    from ._capture import Capture

SETTING = "mobync.writing"

_WRITING = {
    "sqlite": "NOT EXISTS (SELECT 1 FROM {notes} WHERE owner = '')",
    "mysql": "@mobync_writing IS NULL",
}
_NOW_MS = {
    "sqlite": "CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER)",
    "mysql": "CAST(UNIX_TIMESTAMP(SYSDATE(3)) * 1000 AS SIGNED)",
    "postgresql": "CAST(extract(epoch FROM clock_timestamp()) * 1000 AS bigint)",
}


def family_of(dialect: Dialect) -> str:
    """The name of a dialect; for MariaDB, that of MySQL."""
    return "mysql" if is_mysql(dialect) else dialect.name


def _beside(table: Table, name: str, preparer: IdentifierPreparer) -> str:
    """The name of a trigger or a function in the schema of a table."""
    schema = preparer.schema_for_object(table)
    return ".".join(preparer.quote(part) for part in (schema, name) if part)


def _others(capture: Capture, model: Model, dialect: Dialect) -> list[str]:
    """A trigger for each kind of statement; each is one statement, so that it can be pasted.

    A note that is made while mobync writes has a negative time, until Capture decides about it.
    """
    family, preparer = family_of(dialect), dialect.identifier_preparer
    assert model.owner is not None
    owner, id_ = preparer.quote(model.owner.name), preparer.quote(model.id.name)
    says_schema = family != "sqlite"  # there a trigger names only what is in its own file
    notes = preparer.format_table(capture.notes_table, use_schema=says_schema)
    table = preparer.format_table(model.table, use_schema=says_schema)
    unmarked = _WRITING[family].format(notes=notes)
    length = "CHAR_LENGTH" if family == "mysql" else "length"

    def note(row: str, condition: str = "") -> str:
        own = f"{row}.{owner}"
        return (
            f"SELECT {own}, {_literal(model.name, family)}, {row}.{id_}, {_NOW_MS[family]}"
            f" * CASE WHEN {unmarked} THEN 1 ELSE -1 END"
            f"{' FROM DUAL' if family == 'mysql' else ''} WHERE {own} IS NOT NULL"
            f" AND {length}({own}) <= {KEY_LENGTH} AND {length}({own}) > 0{condition}"
        )

    def same(name: str) -> str:
        if family == "mysql":
            return f"CAST(NEW.{name} AS BINARY) <=> CAST(OLD.{name} AS BINARY)"
        return f"NEW.{name} IS OLD.{name} COLLATE BINARY"

    moved = f" AND NOT ({same(owner)} AND {same(id_)})"
    selects = {
        "INSERT": note("NEW"),
        "UPDATE": f"{note('OLD')} UNION ALL {note('NEW', moved)}",
        "DELETE": note("OLD"),
    }
    statements = []
    for kind, selected in selects.items():
        name = _beside(model.table, capture.trigger_name(model.name, kind[0].lower()), preparer)
        write = f"INSERT INTO {notes} (owner, model, object_id, noted_at) {selected}"
        body = f"BEGIN {write}; END" if family == "sqlite" else write
        on = f"AFTER {kind} ON {table} FOR EACH ROW"
        statements.append(f"DROP TRIGGER IF EXISTS {name}")
        statements.append(f"CREATE TRIGGER {name} {on} {body}")
    return statements


_POSTGRESQL_BODY = f"""BEGIN
    IF pg_trigger_depth() = 1 AND current_setting('{SETTING}', true) = 'on' THEN
        RETURN NULL;
    END IF;
    IF TG_OP = 'TRUNCATE' THEN
        {{every}}
    ELSIF TG_OP = 'INSERT' THEN
        {{new}}
    ELSE
        {{old}}
        IF TG_OP = 'UPDATE' THEN
            IF {{moved}} THEN
                {{new}}
            END IF;
        END IF;
    END IF;
    RETURN NULL;
END"""


def _postgresql(capture: Capture, model: Model, dialect: Dialect) -> list[str]:
    """A function, and two triggers that call it: for each row, and before a TRUNCATE for all.

    Writes of another trigger are noted even while mobync writes, because their trigger depth is
    higher. Cascades of foreign keys are not.
    """
    preparer = dialect.identifier_preparer
    assert model.owner is not None
    owner, id_ = preparer.quote(model.owner.name), preparer.quote(model.id.name)
    notes = preparer.format_table(capture.notes_table)
    table = preparer.format_table(model.table)
    name = preparer.quote(capture.trigger_name(model.name))
    truncate = preparer.quote(capture.trigger_name(model.name, "t"))
    function = _beside(model.table, capture.trigger_name(model.name), preparer)

    def note(row: str, source: str = "") -> str:
        return (
            f"INSERT INTO {notes} (owner, model, object_id, noted_at)"
            f" SELECT {row}.{owner}::text, {_literal(model.name)}, {row}.{id_}::text,"
            f" {_NOW_MS['postgresql']}{source} WHERE {row}.{owner} IS NOT NULL"
            f" AND length({row}.{owner}::text) BETWEEN 1 AND {KEY_LENGTH};"
        )

    def same(column: str) -> str:
        return f'NEW.{column}::text COLLATE "C" IS NOT DISTINCT FROM OLD.{column}::text'

    every = note("gone", f" FROM {table} AS gone")
    moved = f"NOT ({same(owner)} AND {same(id_)})"
    body = _POSTGRESQL_BODY.format(every=every, new=note("NEW"), old=note("OLD"), moved=moved)
    return [
        _postgresql_function(function, body),
        f"DROP TRIGGER IF EXISTS {name} ON {table}",
        f"CREATE TRIGGER {name} AFTER INSERT OR UPDATE OR DELETE ON {table}"
        f" FOR EACH ROW EXECUTE FUNCTION {function}()",
        f"DROP TRIGGER IF EXISTS {truncate} ON {table}",
        f"CREATE TRIGGER {truncate} BEFORE TRUNCATE ON {table}"
        f" FOR EACH STATEMENT EXECUTE FUNCTION {function}()",
    ]


def _literal(text_: str, family: str = "") -> str:
    escaped = text_.replace("\\", "\\\\") if family == "mysql" else text_
    return "'" + escaped.replace("'", "''") + "'"


def triggers_of_model(capture: Capture, model: Model, dialect: Dialect) -> list[str]:
    """The statements that make the triggers on a model's table."""
    make = _postgresql if dialect.name == "postgresql" else _others
    return make(capture, model, dialect)


def trigger_of_cascade(capture: Capture, cascade: Cascade, dialect: Dialect) -> list[str]:
    """The statements that make the trigger that notes what is deleted or changed with a row.

    Args:
        capture: the notes.
        cascade: what that is.
        dialect: of the database.

    Raises:
        ValueError: on MariaDB and MySQL, foreign keys go in a circle.
    """
    family, preparer = family_of(dialect), dialect.identifier_preparer
    says_schema = family != "sqlite"
    notes = preparer.format_table(capture.notes_table, use_schema=says_schema)
    write = f"INSERT INTO {notes} (owner, model, object_id, noted_at)"
    plain_name = capture.trigger_name(cascade.table.fullname, "c")
    name = _beside(cascade.table, plain_name, preparer)
    table = preparer.format_table(cascade.table, use_schema=says_schema)
    on = f"BEFORE DELETE ON {table} FOR EACH ROW"
    if family == "mysql":
        gone = Gone(cascade, preparer)
        selects = _all_that_go(cascade, gone, dialect)
        write = f"{write} WITH RECURSIVE {', '.join(gone.parts)} {' UNION ALL '.join(selects)}"
        body = f"BEGIN SET {', '.join(gone.variables)}; {write}; END"
        return [f"DROP TRIGGER IF EXISTS {name}", f"CREATE TRIGGER {name} {on} {body}"]
    selects = []
    for model, key in cascade.direct():
        rows = f"{preparer.format_table(model.table, use_schema=says_schema)} AS mobync_row"
        noted = _noted(model, "mobync_row", dialect, rows)
        selects.append(f"{noted} AND {matches(key, 'mobync_row', 'OLD', preparer)}")
    if family == "sqlite":
        marked = f" AND NOT {_WRITING[family].format(notes=notes)}"
        write = f"{write} {' UNION ALL '.join(each + marked for each in selects)}"
        body = f"BEGIN {write}; END"
        return [f"DROP TRIGGER IF EXISTS {name}", f"CREATE TRIGGER {name} {on} {body}"]
    trigger = preparer.quote(plain_name)
    body = (
        f"BEGIN\n    IF current_setting('{SETTING}', true) = 'on' THEN\n"
        f"        {write} {' UNION ALL '.join(selects)};\n    END IF;\n    RETURN OLD;\nEND"
    )
    return [
        _postgresql_function(name, body),
        f"DROP TRIGGER IF EXISTS {trigger} ON {table}",
        f"CREATE TRIGGER {trigger} {on} EXECUTE FUNCTION {name}()",
    ]


def _all_that_go(cascade: Cascade, gone: Gone, dialect: Dialect) -> list[str]:
    """SELECTs of the notes for all rows that are deleted or changed, except the row that was
    deleted first."""
    selects = []
    for table in cascade.gone:
        model, name = cascade.models.get(table), gone.name(table)
        if model is None or not cascade.gone[table]:
            continue
        noted = _noted(model, name, dialect, name)
        selects.append(noted + (f" AND NOT ({gone.is_the_row})" if table is cascade.table else ""))
    for model, key in cascade.changed:
        selects.append(_noted(model, "mobync_row", dialect, gone.joined(model.table, key)))
    return selects


def _noted(model: Model, row: str, dialect: Dialect, source: str) -> str:
    """A SELECT of the notes for a model's rows; it ends in a condition."""
    family, preparer = family_of(dialect), dialect.identifier_preparer
    as_text = "::text" if family == "postgresql" else ""
    length = "CHAR_LENGTH" if family == "mysql" else "length"
    assert model.owner is not None
    owner = f"{row}.{preparer.quote(model.owner.name)}{as_text}"
    return (
        f"SELECT {owner}, {_literal(model.name, family)},"
        f" {row}.{preparer.quote(model.id.name)}{as_text}, {_NOW_MS[family]} FROM {source}"
        f" WHERE {owner} IS NOT NULL AND {length}({owner}) BETWEEN 1 AND {KEY_LENGTH}"
    )


def _postgresql_function(name: str, body: str) -> str:
    """A function with the rights of its maker, so users who edit need none on the notes."""
    return (
        f"CREATE OR REPLACE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql"
        f" SECURITY DEFINER SET search_path FROM CURRENT AS $mobync$\n{body}\n$mobync$"
    )
