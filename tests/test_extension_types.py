"""Mobync and Synchronizer as types of the extension: what Python code may do with them."""

from __future__ import annotations

import copy
import gc
import inspect
import pickle
import pydoc
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from test_apply import PlainStore, diff

from mobync import Mobync, Synchronizer, _core
from mobync.memory import MemorySynchronizer

ABSTRACT = (
    "read",
    "create",
    "update",
    "delete",
    "validate_create",
    "validate_update",
    "validate_delete",
)
PUSHED = diff("d0", "create", {"id": "x", "a": 1})


class Methods:
    """The seven methods, for a class that has Synchronizer beside it."""

    rows: dict[str, list[str]]

    def read(self, where: str, filters: Any) -> str:
        return f"[{','.join(self.rows.get(where, []))}]"

    def create(self, where: str, data_json: str) -> None:
        self.rows.setdefault(where, []).append(data_json)

    update = delete = create

    def validate_create(self, owner_id: str, **sent: Any) -> bool:
        return True

    validate_update = validate_delete = validate_create


class WithoutSuper(Methods, Synchronizer):
    def __init__(self, rows: dict[str, list[str]]) -> None:
        self.rows = rows


class Base:
    def __init__(self, rows: dict[str, list[str]]) -> None:
        self.rows = rows


class OtherBaseFirst(Methods, Base, Synchronizer):
    pass


class OtherBaseLast(Methods, Synchronizer, Base):
    pass


class Slotted(Methods, Synchronizer):
    __slots__ = ("rows",)

    def __init__(self, rows: dict[str, list[str]]) -> None:
        self.rows = rows


class OnlyNew(Methods, Synchronizer):
    def __new__(cls, rows: dict[str, list[str]]) -> OnlyNew:
        made = super().__new__(cls)
        made.rows = rows
        return made


@dataclass
class Data(Methods, Synchronizer):
    rows: dict[str, list[str]]
    more: list[int] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class FrozenData(Methods, Synchronizer):
    rows: dict[str, list[str]]


class ADict(Methods, dict[str, list[str]], Synchronizer):  # type: ignore[misc]
    @property
    def rows(self) -> dict[str, list[str]]:  # type: ignore[override]
        return self


STORES: tuple[Callable[[dict[str, list[str]]], Any], ...] = (
    WithoutSuper,
    OtherBaseFirst,
    OtherBaseLast,
    Slotted,
    OnlyNew,
    Data,
    FrozenData,
    ADict,
)


def test_the_public_types_are_those_of_the_extension() -> None:
    assert issubclass(Synchronizer, _core.Synchronizer)
    assert issubclass(Mobync, _core.Mobync)
    assert isinstance(Mobync(MemorySynchronizer()), _core.Mobync)


# ---- Synchronizer --------------------------------------------------------------------------------


def test_the_abstract_methods_refuse_an_instance_by_their_names() -> None:
    with pytest.raises(TypeError, match="abstract") as raised:
        Synchronizer()  # type: ignore[abstract]
    assert all(name in str(raised.value) for name in ABSTRACT)

    class Half(PlainStore):
        validate_update = Synchronizer.validate_update

    with pytest.raises(TypeError, match=r"abstract.*validate_update"):
        Half()  # type: ignore[abstract]


@pytest.mark.parametrize("name", ABSTRACT)
def test_the_base_says_which_class_lacks_a_method(name: str) -> None:
    class Bare(_core.Synchronizer):
        pass

    with pytest.raises(NotImplementedError, match="Bare"):
        getattr(Bare(), name)("tasks", "{}")


@pytest.mark.parametrize("make", STORES, ids=lambda make: make.__name__)
def test_a_subclass_need_not_call_super(make: Callable[[Any], Any]) -> None:
    store = make({})
    server = Mobync(store)
    assert server.apply(0, [dict(PUSHED)], "ann")["logical_clock"] == 1
    assert server.logical_clock("ann") == 1
    assert len(store.rows["tasks"]) == len(store.rows["diffs"]) == 1


@pytest.mark.parametrize("make", [copy.copy, copy.deepcopy])
def test_a_synchronizer_can_be_copied(make: Callable[[Any], Any]) -> None:
    store = PlainStore()
    Mobync(store).apply(0, [dict(PUSHED)], "ann")
    copied = make(store)
    assert type(copied) is PlainStore
    assert copied.tables == store.tables
    assert Mobync(copied).apply(0, [], "ann")["logical_clock"] == 1


def test_a_synchronizer_can_be_pickled() -> None:
    store = WithoutSuper({})
    Mobync(store).apply(0, [dict(PUSHED)], "ann")
    loaded = pickle.loads(pickle.dumps(store))
    assert loaded.rows == store.rows
    assert Mobync(loaded).logical_clock("ann") == 1


def test_a_class_without_an_init_takes_no_arguments() -> None:
    class Plainest(Methods, Synchronizer):
        pass

    with pytest.raises(TypeError, match=r"Plainest\(\) takes no arguments"):
        Plainest(5)  # type: ignore[call-arg]


# ---- Mobync --------------------------------------------------------------------------------------

CALLS: dict[str, Callable[[Mobync], object]] = {
    "apply": lambda server: server.apply(0, [], "ann"),
    "apply_json": lambda server: server.apply_json('{"logical_clock": 0, "diffs": []}', "ann"),
    "validate": lambda server: server.validate(PUSHED, "ann"),
    "logical_clock": lambda server: server.logical_clock("ann"),
    "push": lambda server: server.push("ann", [("create", "tasks", {"id": "x"})]),
    "adopt": lambda server: server.adopt("ann", "tasks", [{"id": "x"}]),
    "compact": lambda server: server.compact("ann"),
    "synchronizer": lambda server: server.synchronizer,
}


@pytest.mark.parametrize("call", CALLS)
def test_a_mobync_whose_init_was_not_called_says_so(call: str) -> None:
    with pytest.raises(RuntimeError, match=r"__init__\(\) was not called"):
        CALLS[call](Mobync.__new__(Mobync))


@pytest.mark.parametrize(
    "make", [copy.copy, copy.deepcopy, pickle.dumps], ids=lambda make: make.__name__
)
def test_a_mobync_is_not_copied_or_pickled(make: Callable[[Any], Any]) -> None:
    class Mine(Mobync):
        pass

    for server in (Mobync(MemorySynchronizer()), Mine(MemorySynchronizer())):
        with pytest.raises(TypeError, match="cannot be pickled or copied: make another"):
            make(server)


def test_init_again_is_refused_and_changes_nothing() -> None:
    store = MemorySynchronizer()
    server = Mobync(store, max_diffs=3)
    with pytest.raises(RuntimeError, match="called before"):
        server.__init__(MemorySynchronizer("log"), "log")  # type: ignore[misc]
    assert (server.synchronizer, server.diffs_model_name, server.max_diffs) == (store, "diffs", 3)


def test_a_subclass_has_attributes_and_methods_of_its_own() -> None:
    class Mine(Mobync):
        name = "mine"

        def __init__(self, name: str) -> None:
            super().__init__(MemorySynchronizer())
            self.name = name

        def _now_ms(self) -> int:
            return 7

    server = Mine("yours")
    server.more = 1  # type: ignore[attr-defined]
    sent = {**PUSHED, "utc_timestamp": 2**50}
    server.apply(0, [sent], "ann")
    assert (server.name, server.more) == ("yours", 1)  # type: ignore[attr-defined]
    (row,) = server.synchronizer.read("diffs")
    assert row["utc_timestamp"] == 7


def test_settings_are_read_only() -> None:
    server = Mobync(MemorySynchronizer())
    for name in inspect.signature(Mobync).parameters:
        with pytest.raises(AttributeError):
            setattr(server, name, getattr(server, name))


def test_weak_references_see_both_die() -> None:
    store = MemorySynchronizer()
    server = Mobync(store)
    server.apply(0, [dict(PUSHED)], "ann")
    dead = [weakref.ref(store), weakref.ref(server)]
    del store, server
    gc.collect()
    assert [ref() for ref in dead] == [None, None]


def test_a_cycle_of_both_is_collected() -> None:
    class Knowing(MemorySynchronizer):
        server: Mobync

    store = Knowing()
    store.server = Mobync(store)
    store.server.listen(lambda report, server=store.server: server)
    store.server.apply(0, [dict(PUSHED)], "ann")
    dead = weakref.ref(store), weakref.ref(store.server)
    del store
    gc.collect()
    assert [ref() for ref in dead] == [None, None]


def test_a_type_of_an_app_dies_with_its_objects() -> None:
    class Store(MemorySynchronizer):
        pass

    class Mine(Mobync):
        pass

    Mine(Store()).apply(0, [dict(PUSHED)], "ann")
    dead = weakref.ref(Store), weakref.ref(Mine)
    del Store, Mine
    gc.collect()
    assert [ref() for ref in dead] == [None, None]


# ---- what a reader sees --------------------------------------------------------------------------

SIGNATURES = {
    "apply": "(self, /, logical_clock, diffs, owner_id, *, limit=None, cursor=None, device=None, "
    "request=None, mark=None, part=None, more_diffs=False, upload=None)",
    "apply_json": "(self, /, body, owner_id)",
    "validate": "(self, /, diff, owner_id)",
    "logical_clock": "(self, /, owner_id)",
}


@pytest.mark.parametrize("name", SIGNATURES)
def test_signature_and_help_of_a_method(name: str) -> None:
    method = getattr(Mobync, name)
    assert str(inspect.signature(method)) == SIGNATURES[name]
    documented = pydoc.render_doc(method, renderer=pydoc.plaintext)
    for parameter in list(inspect.signature(method).parameters)[1:]:
        assert f"{parameter}: " in inspect.getdoc(method), parameter
    assert "Raises:" in documented


@pytest.mark.parametrize("name", SIGNATURES)
def test_arguments_have_the_names_of_the_signature(name: str) -> None:
    given: dict[str, Any] = {
        "logical_clock": 0,
        "diffs": [],
        "owner_id": "ann",
        "body": '{"logical_clock": 0, "diffs": []}',
        "diff": dict(PUSHED),
    }
    method = getattr(Mobync(MemorySynchronizer()), name)
    names = [n for n, p in inspect.signature(method).parameters.items() if p.default is p.empty]
    method(**{n: given[n] for n in names})
    method(*[given[n] for n in names])
    with pytest.raises(TypeError):
        method(*[given[n] for n in names], None)
    with pytest.raises(TypeError):
        method(**{n: given[n] for n in names}, more=None)


def test_signature_and_help_of_mobync() -> None:
    parameters = inspect.signature(Mobync).parameters
    assert list(parameters)[:2] == ["synchronizer", "diffs_model_name"]
    documented = pydoc.render_doc(Mobync, renderer=pydoc.plaintext)
    for name in (*parameters, *SIGNATURES, "push", "adopt", "compact", "listen"):
        assert name in documented, name


def test_what_the_extension_documents_has_no_markup_of_its_own() -> None:
    for name, function in inspect.getmembers(_core, inspect.isbuiltin):
        assert function.__doc__, name
        assert "--\n" not in function.__doc__, name
        assert inspect.signature(function)
