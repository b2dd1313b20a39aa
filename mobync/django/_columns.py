"""Columns that store every text unchanged and compare it exactly, on every database.

By default MySQL and MariaDB take 'a' and 'A' for the same owner, and most of their character sets
do not have every letter.
"""

from __future__ import annotations

from typing import Any

from django.db import models


class _Exact(models.Field):  # type: ignore[type-arg]  # Django 4.2's cannot be subscripted
    def db_type(self, connection: Any) -> str | None:
        type_ = super().db_type(connection)
        return f"{type_} CHARACTER SET utf8mb4" if connection.vendor == "mysql" else type_

    def db_parameters(self, connection: Any) -> Any:
        parameters: dict[str, Any] = {**super().db_parameters(connection)}
        if connection.vendor == "mysql":
            parameters["collation"] = "utf8mb4_bin"
        return parameters


class ExactCharField(_Exact, models.CharField):  # type: ignore[type-arg]
    """A name of some characters."""


class ExactTextField(_Exact, models.TextField):  # type: ignore[type-arg]
    """A text of any length."""
