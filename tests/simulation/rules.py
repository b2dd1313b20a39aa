"""The app's rules, and what they said yes to."""

from __future__ import annotations

import json
from typing import Any

Value = tuple[str, str, str, str]  # model, object id, field, value as JSON

asked: list[dict[str, Any]] = []  # by all stores: histories are played one after another


class Rules:
    """Refuses a diff that says so itself, and notes what it was asked of."""

    def validate_create(self, owner_id: str, **diff: Any) -> bool:
        asked.append(diff)
        return "refuse" not in diff

    validate_update = validate_delete = validate_create


def take_asked() -> list[dict[str, Any]]:
    """What the rules were asked of since the last call."""
    taken = asked.copy()
    asked.clear()
    return taken


def values_of(model: str, json_data: str) -> set[Value]:
    fields = json.loads(json_data)
    object_id = str(fields.pop("id"))
    return {(model, object_id, name, json.dumps(value)) for name, value in fields.items()}
