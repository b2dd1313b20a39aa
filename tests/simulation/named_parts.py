"""mobync, to which each request of a named device with diffs goes in parts.

A phone cuts its request, and after it was killed it may cut it in another way.  Parts come in any
order, twice, or not at all until they are missed; between them come late ones of earlier requests,
of the phone, of copies of it and of others.  Without a name for each cut (``upload``) the server
can tell less of this apart: WAYS says what such phones do.
"""

from __future__ import annotations

import copy
import itertools
import json
import random
from collections import Counter
from typing import Any

from mobync import Mobync, PartsMissingError, RequestTooLargeError, UnknownDeviceError
from mobync._sync import parts as of_server
from mobync._sync.devices import Device
from mobync._sync.owner_state import OWNER as OF_OWNER
from mobync._sync.uploads import Upload

from .named_phones import OWNER, Reply, Request, diff
from .named_servers import ANY_SKEW_MS, Server, WentWrong

MOST_LATE = 20
MOST_PARTS = 4
MOST_TRIES = 20
SHORT_BYTES = 800  # about three edits

NAMED, CUT_ONCE, IN_ORDER = WAYS = (
    "each cut has a name",
    "no names: a request is always cut in the same way",
    "no names: parts come in order, and never late",
)

Cut = list[Request]
Identity = tuple[Any, ...]


def identity(part: Request) -> Identity:
    """What all parts of a cut have the same."""
    return tuple(part[name] for name in ("upload", "request", "mark", "logical_clock"))


def length(cut: Cut) -> int:
    return sum(len(json.dumps(part["diffs"])) for part in cut)


class InParts(Server):
    """Sends each request of a named device in parts that has diffs.

    Args:
        seed: what decides.
        is_quiet: nobody goes back to a backup and no phone is copied.

    Attributes:
        counts: what happened.
    """

    def __init__(self, seed: int = 0, is_quiet: bool = False) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()
        self._chance = random.Random(f"parts {seed}")
        self._way = self._chance.choice(WAYS) if is_quiet else NAMED
        # Without names, parts of another cut count as well, until one says something else.
        lengths = [SHORT_BYTES, 2**20] if self._way == NAMED else [2**20]
        self._most = self._chance.choice(lengths)
        self._names = itertools.count()
        self._late: list[tuple[Request, Request]] = []  # parts, and the whole of each
        self._cuts: dict[str, Cut] = {}  # the last of each request
        self._kept: dict[str, tuple[Identity, dict[int, str]]] = {}
        self._bound()

    def _bound(self) -> None:
        self.mobync = Mobync(
            self.store, max_clock_skew_ms=ANY_SKEW_MS, max_request_bytes=self._most
        )

    def __deepcopy__(self, memo: Any) -> Server:
        copied = super().__deepcopy__(memo)
        assert isinstance(copied, InParts)
        for name in ("counts", "_chance", "_way", "_most", "_names", "_late", "_cuts"):
            setattr(copied, name, getattr(self, name))
        copied._kept = copy.deepcopy(self._kept)
        copied._bound()
        return copied

    def forget(self, name: str) -> None:
        """A device that is silent sends no parts."""
        super().forget(name)
        self._late[:] = [late for late in self._late if late[0]["device"] != name]

    # ---- what a phone does -------------------------------------------------------------------

    def sync(self, request: Request) -> Reply:
        if not request.get("device") or not request["diffs"]:
            return super().sync(request)
        cut = self._begin(request)
        try:
            reply = self._finish(request, cut)
        except RequestTooLargeError:
            if length(cut) <= self._most:
                raise
            self.counts["too long for parts"] += 1
            reply = super().sync(request)
        else:
            self._check_length(request, cut)
        if not reply.get("more"):
            self._note_done(request)
        return reply

    def _begin(self, request: Request) -> Cut:
        """Cut a request, and send what comes before the last part, if it all goes well.

        Of a request that comes again, only the last part is sent, or it is cut in another way.
        """
        pages = {name: request.get(name) for name in ("limit", "cursor")}
        said = json.dumps({**request, **dict.fromkeys(pages)})
        if said in self._cuts and (self._way == CUT_ONCE or self._chance.random() < 0.5):
            *parts, last = self._cuts[said]
            return [*parts, {**last, **pages}]
        while self._way != CUT_ONCE and self._chance.random() < 0.4:  # then it is killed
            cut = self._cut(request)
            self._try_to_send(request, cut[: self._chance.randint(1, len(cut))])
        if self._chance.random() < 0.1:
            self._let_a_stranger_begin()
        cut = self._cut(request)
        self._cuts[said] = cut
        self._try_to_send(request, cut)
        return cut

    def _finish(self, request: Request, cut: Cut) -> Reply:
        """Send the last part, and what is missing, until there is an answer."""
        for _ in range(MOST_TRIES):
            try:
                reply = super().sync(cut[-1])
            except PartsMissingError as error:
                self._check_missing(cut[-1], error.missing)
                self.counts["parts missing"] += 1
                for number in error.missing:
                    self._send(cut[number - 1])
                self._deliver_late()
            else:
                assert reply.pop("part") == len(cut)
                return reply
        raise WentWrong(f"parts are always missing: of {request}")

    def _cut(self, request: Request) -> Cut:
        diffs = request["diffs"]
        count = self._chance.randint(1, MOST_PARTS)
        ends = sorted(self._chance.choices(range(len(diffs) + 1), k=count - 1))
        pieces = [diffs[i:j] for i, j in itertools.pairwise([0, *ends, len(diffs)])]
        upload = self.name_of_cut() if self._way == NAMED else None
        return [
            {**request, "diffs": piece, "part": n, "more_diffs": n < count, "upload": upload}
            for n, piece in enumerate(pieces, 1)
        ]

    def name_of_cut(self) -> str:
        return f"cut {next(self._names)}"

    def _try_to_send(self, request: Request, cut: Cut) -> None:
        parts = cut[:-1]
        if self._way == IN_ORDER:
            some = parts
        else:
            some = [part for part in parts for _ in range(self._chance.choice((0, 1, 1, 1, 2)))]
            self._chance.shuffle(some)
        try:
            for part in some:
                self._send(part)
                self._deliver_late()
        except RequestTooLargeError:
            if length(cut) <= self._most:
                raise
        if self._way != IN_ORDER:
            self._late[:] = [*self._late, *((part, request) for part in parts)][-MOST_LATE:]

    def _send(self, part: Request) -> None:
        assert super().sync(part)["part"] == part["part"]
        self.counts["parts"] += 1
        self._note_kept(part)

    def _let_a_stranger_begin(self) -> None:
        """A new device sends a part, and is never seen again."""
        name = f"stranger {next(self._names)}"
        rows = [diff(name, "create", {"id": name, "a": "long" * (SHORT_BYTES // 8)}, 0)]
        said = {"device": name, "request": 1, "mark": None, "logical_clock": 0, "diffs": rows}
        self._send({**said, "part": 1, "more_diffs": True, "upload": None})

    def _deliver_late(self) -> None:
        if not self._late or self._chance.random() >= 0.2:
            return
        part, request = self._chance.choice(self._late)
        try:
            self._send(part)
        except (UnknownDeviceError, RequestTooLargeError):
            return
        self.counts["late parts"] += 1
        self._check_whole(part, request)

    # ---- what must be true -------------------------------------------------------------------

    def _check_whole(self, part: Request, request: Request) -> None:
        """What was taken is of a request that would be, unless it is another one of the same
        number, which only the whole can tell."""
        try:
            Server.sync(copy.deepcopy(self), request)
        except UnknownDeviceError:
            if self._states()[request["device"]].number != request["request"]:
                raise WentWrong(f"taken in vain: {part}, the whole is refused") from None

    def _note_kept(self, part: Request) -> None:
        """Parts of one cut are kept together, as long as none comes again that says something
        else."""
        text = json.dumps(part["diffs"])
        which, kept = self._kept.get(part["device"], ((), {}))
        if which != identity(part) or kept.get(part["part"], text) != text:
            kept = {}
        self._kept[part["device"]] = identity(part), {**kept, part["part"]: text}
        held = sum(len(text) for name in self._states() for _, text in self._rows(name))
        if held > of_server.OWNERS_SHARE * self._most:
            raise WentWrong(f"too much is kept: {held} bytes of parts")

    def _note_done(self, request: Request) -> None:
        """Parts of the requests before this one are not kept."""
        which, _ = self._kept.get(request["device"], ((), {}))
        if which and which[1] < request["request"]:
            del self._kept[request["device"]]

    def _check_length(self, request: Request, cut: Cut) -> None:
        if length(cut) > self._most:
            raise WentWrong(f"too much was taken: {length(cut)} bytes, of {request}")

    def _check_missing(self, last: Request, missing: list[int]) -> None:
        which, kept = self._kept.get(last["device"], ((), {}))
        has_room = self._most > SHORT_BYTES
        if has_room and which == identity(last) and not kept.keys().isdisjoint(missing):
            raise WentWrong(f"missed without need: {missing} before {last}, kept are {kept}")

    def _states(self) -> dict[str, Device]:
        texts = self.store.read_devices(OWNER, None)
        return {name: Device.of_text(text) for name, text in texts.items() if name != OF_OWNER}

    def _rows(self, name: str) -> list[tuple[int, str]]:
        return self.store.read_parts(OWNER, name)

    def check_what_is_kept(self) -> None:
        """Nothing is kept of requests that are over, and of others nothing for longer than a day.

        Raises:
            WentWrong: it is.
        """
        for name, device in self._states().items():
            upload = Upload.of_text(device.upload) if device.upload else None
            if {part for part, _ in self._rows(name)} != set(upload.sizes if upload else ()):
                raise WentWrong(f"left: parts of {name}, which has {upload}")
            if upload is not None and upload.number < device.number:
                raise WentWrong(f"left: {upload} of {name}, which is at {device.number}")
            if upload is not None:
                upload.kept_ms = 0
                device.upload = upload.to_text()
                self.store.write_devices(OWNER, {name: device.to_text()})
        self.compact()
        left = [name for name, device in self._states().items() if device.upload]
        if left:
            raise WentWrong(f"left: parts of {left}, after a day")
