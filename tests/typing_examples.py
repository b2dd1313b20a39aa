"""What an app writes, as mypy --strict and pyright see it: .ci/lint runs both over this file.

A line that must not pass bears the comment ``type: ignore``; both checkers complain of one that
hides nothing, so each of these lines is an error for both.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, List  # noqa: UP035

from mobync import DiffDict, Mobync, ReadFilter, Synchronizer, SyncReport, merge
from mobync.http import Endpoint
from mobync.memory import MemorySynchronizer
from mobync.sqlalchemy import DocumentSynchronizer, SQLAlchemySynchronizer

if TYPE_CHECKING:
    from typing_extensions import Self, Unpack


# ---- a Synchronizer, as it is documented --------------------------------------------------------


class Documented(Synchronizer):
    def read(self, where: str, filters: List[ReadFilter]) -> str:  # noqa: UP006
        return "[]"

    def create(self, where: str, data_json: str) -> None: ...

    def update(self, where: str, data_json: str) -> None: ...

    def delete(self, where: str, data_json: str) -> None: ...

    def validate_create(self, owner_id: str, **kwargs: Any) -> bool:
        return bool(kwargs["model"] == "tasks")

    def validate_update(self, owner_id: str, *, model: str, json_data: str, **rest: Any) -> bool:
        return model == "tasks" and len(json_data) < 1000

    def validate_delete(self, owner_id: str, **diff: Unpack[DiffDict]) -> bool:
        return diff["model"] == "tasks" and diff["utc_timestamp"] > 0

    @contextmanager
    def transaction(self, owner_id: str) -> Iterator[Documented]:
        yield self


class WithRowsAsDicts(Synchronizer):
    diffs_model_name = "changes"

    def read(self, where: str, filters: Sequence[ReadFilter]) -> list[DiffDict]:
        return []


class WithAContextOfItsOwn(Synchronizer):
    def transaction(self, owner_id: str) -> AbstractContextManager[Synchronizer]:
        return nullcontext(self)


# ---- the stores that are there, with rules of the app -------------------------------------------


class InMemory(MemorySynchronizer):
    def validate_create(self, owner_id: str, *, model: str, json_data: str, **rest: Any) -> bool:
        return super().validate_create(owner_id, model=model, json_data=json_data, **rest)

    def validate_update(self, owner_id: str, **diff: Any) -> bool:
        return super().validate_update(owner_id, **diff)

    def validate_delete(self, owner_id: str, **diff: Unpack[DiffDict]) -> bool:
        return super().validate_delete(owner_id, **diff)


class OnTables(SQLAlchemySynchronizer):
    def validate_create(self, owner_id: str, *, model: str, json_data: str, **rest: Any) -> bool:
        return super().validate_create(owner_id, model=model, json_data=json_data, **rest)

    def validate_update(self, owner_id: str, **diff: Any) -> bool:
        return super().validate_update(owner_id, **diff)

    def validate_delete(self, owner_id: str, **diff: Unpack[DiffDict]) -> bool:
        return super().validate_delete(owner_id, **diff)


class OnDocuments(DocumentSynchronizer):
    def validate_create(self, owner_id: str, *, model: str, json_data: str, **rest: Any) -> bool:
        return super().validate_create(owner_id, model=model, json_data=json_data, **rest)

    def validate_update(self, owner_id: str, **diff: Any) -> bool:
        return super().validate_update(owner_id, **diff)

    def validate_delete(self, owner_id: str, **diff: Unpack[DiffDict]) -> bool:
        return super().validate_delete(owner_id, **diff)


class InATransactionOfItsOwn(InMemory):
    @contextmanager
    def transaction(self, owner_id: str) -> Iterator[Self]:
        yield self


# ---- what does not fit --------------------------------------------------------------------------


class Asynchronous(MemorySynchronizer):
    async def validate_delete(self, owner_id: str, **diff: Any) -> bool:  # type: ignore[override]
        return True


class Misspelled(MemorySynchronizer):
    def validate_update(self, owner_id: str, *, modell: str, **rest: Any) -> bool:  # type: ignore[override]
        return modell == "tasks"


class OfAnotherKind(MemorySynchronizer):
    def validate_update(self, owner_id: str, *, model: int, **rest: Any) -> bool:  # type: ignore[override]
        return model == 1


class WithoutTheRest(MemorySynchronizer):
    def validate_update(self, owner_id: str, model: str) -> bool:  # type: ignore[override]
        return model == "tasks"


class WithAKeyThatNoDiffHas(MemorySynchronizer):
    def validate_update(self, owner_id: str, **diff: Unpack[DiffDict]) -> bool:
        return bool(diff["timestamp"])  # type: ignore[typeddict-item]


# ---- calls --------------------------------------------------------------------------------------

mobync = Mobync(InMemory())
edits: list[dict[str, Any]] = []
texts: list[dict[str, str | int]] = []


def sync(owner_id: str, sent: list[DiffDict]) -> list[DiffDict]:
    reply = mobync.apply(0, sent, owner_id)
    mobync.apply(reply["logical_clock"], reply["diffs"], owner_id)
    mobync.apply("0", edits, owner_id, limit=100, cursor=reply.get("cursor"))
    mobync.apply(0, texts, owner_id)
    mobync.apply(0, [{"id": "d", "type": "create"}], owner_id)
    mobync.validate(reply["diffs"][0], owner_id)
    mobync.validate(edits[0], owner_id)
    return merge(reply["diffs"], edits).downstream + merge(edits, sent).upstream


mobync.apply(0, '{"id": "d"}', "anna")  # type: ignore[arg-type]
mobync.apply(0, [1], "anna")  # type: ignore[list-item]
mobync.apply(0, edits[0], "anna")  # type: ignore[arg-type]
mobync.apply(0, [], 7)  # type: ignore[arg-type]
Mobync(InMemory)  # type: ignore[arg-type]

mobync.push("anna", [("create", "tasks", {"id": "t"}), ("delete", "tasks", '{"id": "t"}')])
mobync.adopt("anna", "tasks", [{"id": "t"}], progress=print)
mobync.adopt("anna", "tasks", progress=lambda seen: print(seen + 1))


def count(report: SyncReport) -> int:
    return report.accepted


mobync.listen(count)
mobync.listen(len)  # type: ignore[arg-type]


def owner_of(token: str | None, headers: Mapping[str, str]) -> str | None:
    return token


async def owner_found_later(token: str | None, headers: Mapping[str, str]) -> str | None:
    return token


Endpoint(mobync, owner_of)
Endpoint(mobync, lambda token, headers: headers.get("X-Owner"))
Endpoint(mobync, owner_found_later)
Endpoint(InMemory(), owner_of)  # type: ignore[arg-type]
