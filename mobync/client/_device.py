"""A device: edits at any time, and a sync when there is a network."""

from __future__ import annotations

import json
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any

from ..types import DiffDict
from ._database import Database
from ._errors import DeviceRevokedError, OtherOwnerError
from ._live import Live
from ._replica import Kind, RefusedEdit, Replica, Request
from ._rows import Name
from ._server import Server, Token, error_of, missing_parts, refused_index
from ._transport import Answer, HttpTransport, Transport

PAGE_SIZE = 1_000
PATIENCE_S = 60.0
MOST_NEW_NAMES = 3  # in one sync, or a server that accepts none would be asked without end
MOST_UPLOADS = 5  # tries to send missing parts, for the same reason


@dataclass
class SyncResult:
    """The result of a sync.

    Attributes:
        sent: edits that the server has answered.
        received: diffs that the server sent.
        refused: edits that the server refused; :meth:`Device.refused` keeps them.
    """

    sent: int = 0
    received: int = 0
    refused: tuple[RefusedEdit, ...] = ()


class Device:
    """An app's database on one device, synced with a server of mobync.

    Any thread may use it. Other connections to the file may read rows at any time, but only the
    device may change them.

    A model is stored as JSON documents; you declare nothing. If you need columns, indexes or
    foreign keys, create a table with the name of the model in ``tables``. It has ``id TEXT PRIMARY
    KEY``, ``data TEXT NOT NULL`` for the document, and generated columns for what you need::

        CREATE TABLE IF NOT EXISTS tasks (
            id TEXT PRIMARY KEY,
            data TEXT NOT NULL,
            project_id TEXT AS (data ->> 'project_id') STORED REFERENCES projects (id)
        )

    Args:
        path: the SQLite file; it is made if it does not exist.
        server: the URL of the sync route, or another way to it.
        token: the owner's token, or a function that returns one. The function runs in the thread
            that syncs, and is called again if the server does not accept the token.
        tables: SQL that runs each time the file is opened.
        page_size: how many diffs a reply may have.
        patience_s: how many seconds a sync may wait in all its pauses for a server that does not
            answer or is busy.
        now_ms: the time of an edit, in milliseconds since 1970; for tests.

    Raises:
        ValueError: an argument is wrong, or a later version of mobync made the file.
        sqlite3.Error: the file is not a database, or ``tables`` is not SQL.
    """

    def __init__(
        self,
        path: str | Path,
        server: str | Transport,
        token: Token = None,
        *,
        tables: str = "",
        page_size: int = PAGE_SIZE,
        patience_s: float = PATIENCE_S,
        now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        if page_size < 1:
            raise ValueError(f"page_size must be 1 or more, not {page_size}")
        transport = HttpTransport(server) if isinstance(server, str) else server
        self._server = Server(transport, token, patience_s)
        self._replica = Replica(Database(path, tables), page_size)
        self._syncing = threading.Lock()
        self._new_names = 0  # that a sync has sent
        self._now_ms = now_ms
        self._on_edit: Callable[[], None] = lambda: None

    # ---- rows --------------------------------------------------------------------------------

    def create(self, model: str, fields: dict[str, Any]) -> str:
        """Make a row.

        Args:
            model: its name, as on the server.
            fields: what json.dumps accepts; without an ``id``, the row gets a UUID.

        Returns:
            Its id.

        Raises:
            KeyError: there is already a row with that id.
            InvalidDiffError: every server would refuse it.
            sqlite3.IntegrityError: a rule of the app's table forbids it.
            TypeError, ValueError: a value is not JSON.
        """
        row = fields if "id" in fields else {"id": str(uuid.uuid4()), **fields}
        self._edit("create", model, row)
        return str(row["id"])

    def update(self, model: str, row_id: str, fields: dict[str, Any]) -> None:
        """Set fields of a row; the others stay.

        Raises:
            KeyError: there is no such row.
            InvalidDiffError, sqlite3.IntegrityError, TypeError, ValueError: as in :meth:`create`.
            ValueError: the fields have another ``id``.
        """
        if fields.get("id", row_id) != row_id:
            raise ValueError(f"the id of {model} {row_id!r} cannot become {fields['id']!r}")
        self._edit("update", model, {**fields, "id": row_id})

    def delete(self, model: str, row_id: str) -> None:
        """Delete a row.

        Raises:
            KeyError: there is no such row.
            sqlite3.IntegrityError: another row of the app's tables refers to it.
        """
        self._edit("delete", model, {"id": row_id})

    def _edit(self, kind: Kind, model: str, fields: dict[str, Any]) -> None:
        self._replica.edit(kind, model, fields, self._new_diff_id(), self._now_ms())
        self._on_edit()

    def _new_diff_id(self) -> str:
        return str(uuid.uuid4())

    def get(self, model: str, row_id: str) -> dict[str, Any] | None:
        """A row, or None if it does not exist."""
        row = self._replica.rows.get(Name(model, row_id))
        return None if row is None else {name: json.loads(text) for name, text in row.items()}

    def rows(self, model: str) -> list[dict[str, Any]]:
        """All rows of a model, by their ids."""
        return self._replica.rows.of_model(model)

    def models(self) -> list[str]:
        """The models that have rows, by their names."""
        return self._replica.rows.models()

    # ---- what waits, what was refused --------------------------------------------------------

    @property
    def logical_clock(self) -> int:
        """How much of the owner's log this device has seen."""
        return self._replica.database.state().logical_clock

    @property
    def name(self) -> str:
        """The name of this device; the server may make it take another one."""
        return self._replica.database.state().device

    @property
    def waiting(self) -> int:
        """The edits that no reply has confirmed."""
        return len(self._replica.outbox)

    def refused(self) -> list[RefusedEdit]:
        """The edits that the server refused, until they are dismissed."""
        return [refused for _, refused in self._replica.refused()]

    def dismiss(self, *diff_ids: str) -> None:
        """Forget refused edits, when the user has been told."""
        self._replica.dismiss(diff_ids)

    # ---- syncing -----------------------------------------------------------------------------

    def sync(self) -> SyncResult:
        """Send waiting edits and get what is new.

        Waits and tries again if that can help. Rows can be edited meanwhile; edits made after the
        call began may wait for the next sync.

        Returns:
            The result.

        Raises:
            OfflineError: the server did not answer, or was always busy.
            TokenError: the server does not accept the token.
            ServerError: the server gave an answer that another try would not change.
            DeviceRevokedError: a person has revoked this device; its rows are gone.
            OtherOwnerError: the rows of the file belong to another owner than the token.
            sqlite3.IntegrityError: a foreign key of the app's tables forbids the server's rows.
            Exception: what ``token`` raises.
        """
        with self._syncing:
            result = SyncResult()
            self._new_names = 0
            refused_before = max((place for place, _ in self._replica.refused()), default=0)
            until = self._replica.outbox.last_place()
            more = True
            while more:
                more = self._sync_once(result) or self._waits_until(until)
            result.refused = tuple(
                edit for place, edit in self._replica.refused() if place > refused_before
            )
            return result

    def _waits_until(self, place: int) -> bool:
        first = self._replica.outbox.first_place()
        return first is not None and first <= place

    def _sync_once(self, result: SyncResult) -> bool:
        """Send one request and handle its answer; return whether another request must follow."""
        if self._replica.database.state().starts_over:
            self._start_over(result)
            return True
        request, answer = self._ask(self._replica.next_request())
        if answer.status != 200:
            self._take_error(request, answer)
            return True
        reply = answer.json()
        if reply.get("reset", False):
            if self._replica.take_reset(request, reply):
                result.sent += len(request.diffs)
            return True
        if not self._replica.take_reply(request, reply):
            return True
        more = reply.get("more", False)
        result.sent += 0 if more else len(request.diffs)
        result.received += len(reply["diffs"])
        return bool(more)

    def _ask(self, request: Request) -> tuple[Request, Answer]:
        """Send a request, in parts if it has several; return the answer, and the request that it
        answers.

        The server may already have parts, from before the device was killed. So the device sends
        the last part, and the answer says which parts are missing. It sends the first part before
        that: a server that does not know parts handles each part as a whole request, so edits must
        arrive in their order.
        """
        last = len(request.sizes)
        if last == 1:
            return request, self._server.ask(request.body())
        missing = list(range(1, last)) if request.is_new else [1]
        if request.cursor is not None:  # the server has all parts
            missing = []
        for _ in range(MOST_UPLOADS):
            for number in (*missing, last):
                request = replace(request, asked=number)
                answer = self._server.ask(request.body_of_part(number))
                if answer.status == 200 and "part" not in answer.json():
                    return self._replica.narrowed(request, number), answer
                if answer.status != 200:
                    break
            if answer.json().get("code") != "parts_missing":
                break
            missing = missing_parts(answer, last)
        return request, answer

    def _take_error(self, request: Request, answer: Answer) -> None:
        """Handle a refusal. The next request is then another one."""
        found = answer.json()
        code, message = str(found.get("code", "")), str(found.get("message", ""))
        index = refused_index(request, answer)
        if index is not None:
            self._replica.take_refusal(request, index, code, message)
        elif code == "request_too_large" and len(request.diffs) > 1:
            self._replica.send_fewer_in_all(request)
        elif code == "no_parts" and len(request.sizes) > 1:
            self._replica.sends_parts = False
        elif answer.status == 413 and request.diffs:
            if not self._replica.send_fewer(request):
                place = request.of_part(request.asked).start
                self._replica.take_refusal(request, place, "too_large", message)
        elif code == "clock_ahead" or (code == "invalid_page" and request.cursor is not None):
            self._replica.give_up_rows(request)
        else:
            self._take_error_of_name(request, answer, code)

    def _take_error_of_name(self, request: Request, answer: Answer, code: str) -> None:
        """Handle an answer that concerns the name of the device."""
        if code == "unknown_device" and self._new_names < MOST_NEW_NAMES:
            self._new_names += 1
            self._replica.take_new_name(request, self._new_diff_id)
        elif code == "device_revoked":
            self._replica.drop_all(request)
            raise DeviceRevokedError(
                "this device was revoked: its rows and unsent edits are gone", 403, code
            )
        elif code == "other_owner":
            raise OtherOwnerError(str(error_of(answer)), answer.status, code)
        else:
            raise error_of(answer)

    def _start_over(self, result: SyncResult) -> None:
        """Pull everything, and replace the rows with it; the outbox stays.

        No page is stored before the last one arrives. A pull that breaks off begins again.
        """
        first = request = self._replica.first_pull()
        pulled: list[DiffDict] = []
        more = True
        while more:
            answer = self._server.ask(request.body())
            if answer.status != 200:
                self._take_error_of_name(first, answer, str(answer.json().get("code", "")))
                return
            reply = answer.json()
            if reply.get("reset", False):  # the pulled pages are too old by now
                self._replica.take_reset(first, reply)
                return
            pulled += reply["diffs"]
            more = reply.get("more", False)
            if more:
                request = first.at(reply["cursor"])
        if self._replica.start_over(first, pulled, reply):
            result.received += len(pulled)

    # ---- live --------------------------------------------------------------------------------

    def live(
        self, on_sync: Callable[[SyncResult], object] | None = None, *, poll_s: float = 60.0
    ) -> Live:
        """Sync at once when another device has synced, and when a row is edited here.

        Args:
            on_sync: called after each sync, in the thread that did it.
            poll_s: seconds between syncs if the server sends no events.

        Returns:
            A context manager that ends it.
        """
        return Live(self, on_sync, poll_s)

    def close(self) -> None:
        """Close the file, after a running sync has ended."""
        with self._syncing:
            self._replica.database.close()

    def __enter__(self) -> Device:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
