"""The error codes of each database, and what they mean for a sync.

One table for all databases: the SQLSTATE of PostgreSQL, the error numbers of MariaDB and MySQL, and
the result codes of SQLite. A code that is not in it is a bug: of mobync, of the app, or of the
database's setup. An *original* error is the driver's, which a library wraps.
"""

from __future__ import annotations

from enum import Enum
from typing import Any


class Kind(Enum):
    """What an error of a database means.

    Attributes:
        LOCKED: the wait for a lock took too long; the device sends its request again.
        CONFLICT: the same transaction may succeed at once if it is started again.
        UNAVAILABLE: the database cannot do it now; the device sends its request again later.
        SPOILED: like UNAVAILABLE, and the connection is useless from now on, because its server no
            longer accepts writes.
        TOO_LARGE: the statement is longer than the database accepts, at every try.
        MISFIT: a column cannot store a value, and only the database could know.
        VIOLATION: a row breaks a constraint.
        BUG: everything else.
    """

    LOCKED = "locked"
    CONFLICT = "conflict"
    UNAVAILABLE = "unavailable"
    SPOILED = "spoiled"
    TOO_LARGE = "too_large"
    MISFIT = "misfit"
    VIOLATION = "violation"
    BUG = "bug"


OUTAGES = (Kind.UNAVAILABLE, Kind.SPOILED)

# PostgreSQL: a whole SQLSTATE, or its class, the first two characters.
_SQLSTATES: dict[str, Kind] = {
    "08": Kind.UNAVAILABLE,  # the connection; also all errors of PgBouncer itself
    "22": Kind.MISFIT,
    "23": Kind.VIOLATION,
    "25006": Kind.SPOILED,  # read-only: a standby, or a primary that was demoted
    "25P03": Kind.UNAVAILABLE,  # idle in transaction for too long
    "25P04": Kind.UNAVAILABLE,  # transaction_timeout
    "40001": Kind.CONFLICT,  # serialization failure
    "40P01": Kind.CONFLICT,  # deadlock
    "40003": Kind.UNAVAILABLE,  # it is not known whether the statement was completed
    "44": Kind.VIOLATION,  # the check of a view
    "53": Kind.UNAVAILABLE,  # disk full, out of memory, too many connections
    "54000": Kind.MISFIT,  # a row too long for an index
    "54001": Kind.MISFIT,  # JSON nested too deep for the stack
    "55P03": Kind.LOCKED,
    "57": Kind.UNAVAILABLE,  # statement_timeout, shutting down, starting up
    "58": Kind.UNAVAILABLE,  # the operating system
    "P0001": Kind.VIOLATION,  # a trigger of the app refuses
}

_MYSQL_NUMBERS: dict[Kind, tuple[int, ...]] = {
    Kind.LOCKED: (1205,),
    Kind.CONFLICT: (
        *(1213, 1020),  # a deadlock, a row that changed since the snapshot
        *(1412, 1614, 3101),  # a table that was altered meanwhile, a rollback of XA or of a group
    ),
    Kind.SPOILED: (
        *(1290, 1792, 1836, 3100),  # read-only
        1047,  # a Galera node that is not in the primary component
    ),
    Kind.UNAVAILABLE: (
        *(1317, 1969, 3024),  # a statement was stopped, or its time was up
        *(3, 20, 1021, 1026, 1030, 1114, 1180),  # the disk is full, or does not work
        *(1037, 1038, 1041, 1206, 1637),  # out of memory, of locks, of transactions
        *(1040, 1129, 1203, 1226),  # too many connections
        *(1053, 1077, 1079, 1080, 1223),  # shutting down, or being backed up
        *(0, 1158, 1159, 1160, 1161, 1184, 1927, 3169, 4031),  # the connection was ended
        *(
            2002,
            2003,
            2005,
            2006,
            2012,
            2013,
            2014,
            2026,
            2055,
        ),  # the same, reported by the client library
    ),
    Kind.TOO_LARGE: (1153, 1162, 1301, 2020),  # max_allowed_packet
    Kind.MISFIT: (
        *(1264, 1265, 1292, 1366, 1406, 1411, 1690),  # out of range, no such moment, no such letter
        *(1300, 1365, 1367, 3140, 3141, 3157, 3903, 4038),  # bad text, bad JSON, nested too deep
        *(1118, 1713),  # a row that is too long
    ),
    Kind.VIOLATION: (
        *(1022, 1062, 1169, 1586),  # unique
        *(1048, 1364),  # not null
        *(1216, 1217, 1451, 1452, 1557, 1761, 1762),  # foreign keys
        *(1369, 3819, 4025),  # check
        1644,  # a trigger of the app refuses
    ),
}
_MYSQL = {number: kind for kind, numbers in _MYSQL_NUMBERS.items() for number in numbers}

# SQLite: the primary result code, and the words for it where Python 3.10 gives no code.
_SQLITE_BUSY = (5, 6)
_SQLITE: dict[int, tuple[Kind, str]] = {
    5: (Kind.CONFLICT, "database is locked"),
    6: (Kind.CONFLICT, "table is locked"),
    7: (Kind.UNAVAILABLE, "out of memory"),
    8: (Kind.SPOILED, "readonly database"),
    9: (Kind.UNAVAILABLE, "interrupted"),
    10: (Kind.UNAVAILABLE, "disk I/O error"),
    13: (Kind.UNAVAILABLE, "disk is full"),
    14: (Kind.UNAVAILABLE, "unable to open database file"),
    15: (Kind.CONFLICT, "locking protocol"),
    17: (Kind.CONFLICT, "schema has changed"),
    18: (Kind.TOO_LARGE, "too big"),
    19: (Kind.VIOLATION, "constraint failed"),
    20: (Kind.MISFIT, "datatype mismatch"),
}


def kind_of_code(original: BaseException | None) -> Kind | None:
    """The meaning of a driver's error by its code; None if the code does not say."""
    code, sqlite_code = code_of_original(original), sqlite_code_of(original)
    if sqlite_code is not None:
        return _SQLITE[sqlite_code][0] if sqlite_code in _SQLITE else None
    if isinstance(code, str):
        return _SQLSTATES.get(code) or _SQLSTATES.get(code[:2])
    return None if code is None else _MYSQL.get(code)


def code_of_original(original: Any) -> str | int | None:
    """PostgreSQL's SQLSTATE or the error number of MySQL and MariaDB."""
    first = original.args[0] if original is not None and original.args else None
    if isinstance(first, int):
        return first
    if isinstance(first, dict):  # pg8000's
        return first.get("C")
    for name in ("errno", "sqlstate", "pgcode"):
        code = getattr(original, name, None)
        if isinstance(code, str | int):
            return code
    return None


def is_busy(original: BaseException | None) -> bool:
    """Whether somebody else has locked the SQLite file; inside a transaction SQLite may not wait at
    all.
    """
    return sqlite_code_of(original) in _SQLITE_BUSY


def sqlite_code_of(original: Any) -> int | None:
    """SQLite's primary result code; None if it is not known, or of another database."""
    code = getattr(original, "sqlite_errorcode", None)  # since Python 3.11
    if isinstance(code, int):
        return code & 0xFF
    if not type(original).__module__.startswith("sqlite3"):
        return None
    said = str(original)
    return next((code for code, (_, words) in _SQLITE.items() if words in said), None)
