"""Named devices, a server, and everything that can happen between them.

python -m simulation.named --runs 10000 [--seed 1] [--without RULE | --without-each]

Requests and answers are lost, come late and twice; phones are copied and restored from backups, and
so is the server; phones are silent for very long, pull in pages, and edit while a request is under
way; the log is compacted and folded at any moment, in small pieces; a device without a name syncs
beside them.  named_stories.py has what seldom comes by chance.  In the end everybody has the same
rows, and each answer was what it had to be (named_watch.py).  Of a history one of these is true,
and more holds:

    anything     phones and the server go back to backups, phones are copied, ids are used again
    own fields   each phone writes a field of its own: no edit is lost that a phone ever made
    new ids      no id is used again: nothing that was deleted comes back

``--without`` removes a rule from the server or the phones; a check must then fail (named_rules.py).
"""

from __future__ import annotations

import argparse
import copy
import itertools
import json
import random
import sys
from collections import Counter
from contextlib import suppress
from typing import Any

from mobync import LogicalClockError, UnknownDeviceError

from .named_parts import InParts
from .named_phones import Nameless, Phone, Reply, Request
from .named_rules import RULES, lacking
from .named_servers import Asked, Model, Server, WentWrong
from .named_stories import (
    MOST_PHONES,
    RICH_STORIES,
    STORIES,
    STORIES_BESIDE_NAMELESS,
    STORIES_OF_COPIES,
    Story,
)
from .named_watch import Watch
from .pieces import SIZES, in_pieces

KINDS = ("anything", "own fields", "new ids")
STEPS = 40


class World:
    """Plays a history.

    Args:
        seed: what decides.
        kind: one of KINDS.
        server: asked; None: mobync, in one history of three by requests in parts.
        richly: whether there are pages, syncs during a compaction, and a device without a name.
    """

    def __init__(self, seed: int, kind: str, server: Any = None, richly: bool = True) -> None:
        Phone.numbers = itertools.count()
        self.chance = random.Random(seed)
        self.kind = kind
        self.is_quiet = kind != "anything"  # nobody goes back to a backup, no phone is copied
        self.server: Asked = self.new_server(seed) if server is None else server
        self.backup = copy.deepcopy(self.server)
        self.phones: list[Phone] = [self.new_phone(n) for n in range(3)]
        self.richly = richly
        self.pages = richly and self.chance.random() < 0.5
        self.stories = RICH_STORIES if richly else STORIES
        if richly and self.chance.random() < 0.3:
            last = self.phones[-1]
            self.phones[-1] = Nameless(last.own_field, last.new_ids)
            self.stories = STORIES_BESIDE_NAMELESS
        if not self.is_quiet:
            self.stories = [*self.stories, *STORIES_OF_COPIES]
        self.phone_backups = copy.deepcopy(self.phones)
        self.earlier: list[Request] = []
        self.deleted: set[str] = set()
        self.counts: Counter[str] = Counter()
        self.watch = Watch(self.server, self.is_quiet)

    def new_server(self, seed: int) -> Server:
        return InParts(seed, self.is_quiet) if self.chance.random() < 1 / 3 else Server()

    def new_phone(self, number: int) -> Phone:
        return Phone(f"of {number}" if self.kind == "own fields" else None, self.kind == "new ids")

    def play(self) -> None:
        begins = {self.chance.randrange(STEPS) for _ in range(self.chance.randrange(3))}
        for turn in range(STEPS):
            self.step(1000 + 20 * turn)
            if turn in begins:
                self.tell(self.chance.choice(self.stories), 1000 + 20 * turn)
        self.settle()
        with in_pieces(self.chance.choice(SIZES)):
            self.server.compact()
        self.check()
        self.server.check_what_is_kept()

    def tell(self, story: Story, now: int) -> None:
        self.counts["stories"] += 1
        for _ in story(self, now):
            if self.chance.random() < 0.2:
                self.step(now)

    def step(self, now: int) -> None:
        what = self.chance.random()
        number = self.chance.randrange(len(self.phones))
        phone = self.phones[number]
        if what < 0.45:
            phone.edit(self.chance, now)
        elif what < 0.75:
            self.sync(phone)
        elif what < 0.85:
            self.sync(phone, lost=True)
        elif what < 0.88 and self.earlier:
            self.deliver_late()
        elif what < 0.91:
            self.compact()
        elif what < 0.92:
            self.forget(phone)
        elif self.kind == "anything":
            self.go_wrong(number, what)
        elif what < 0.94:
            self.forget(phone)
            self.compact()

    def compact(self) -> None:
        with in_pieces(self.chance.choice(SIZES), self.between_pieces):
            self.server.compact()
        self.counts["compactions"] += 1

    def between_pieces(self) -> None:
        self.counts["pieces"] += 1
        if self.richly and self.chance.random() < 0.2:
            self.sync(self.chance.choice(self.phones))

    def forget(self, phone: Phone) -> None:
        self.server.forget(phone.name)
        self.watch.forget(phone.name)

    def go_wrong(self, number: int, what: float) -> None:
        is_named = not isinstance(self.phones[number], Nameless)
        if what < 0.93:
            self.phone_backups[number] = copy.deepcopy(self.phones[number])
        elif what < 0.945 and is_named:
            self.phones[number] = copy.deepcopy(self.phone_backups[number])
        elif what < 0.955 and len(self.phones) < MOST_PHONES and is_named:
            self.copy_of(self.phones[number])
        elif what < 0.98:
            self.backup = copy.deepcopy(self.server)
        elif what < 0.99 and all(not isinstance(phone, Nameless) for phone in self.phones):
            self.server = self.server.gone_back_to(self.backup)
            self.watch.restore(self.server)
            self.counts["servers restored"] += 1

    def copy_of(self, phone: Phone) -> Phone:
        self.phones.append(copy.deepcopy(phone))
        self.phone_backups.append(copy.deepcopy(phone))
        return self.phones[-1]

    def sync(self, phone: Phone, lost: bool = False, limit: int | None = None) -> None:
        if limit is None and self.pages and self.chance.random() < 0.5:
            limit = self.chance.randint(1, 3)
        request = phone.request(limit)
        if phone.name:
            self.earlier.append(request)
        self.counts["requests"] += 1
        try:
            reply = self.watch.ask(request)
        except UnknownDeviceError:
            self.counts["unknown"] += 1
            if not lost:
                phone.begin_again()
            return
        except LogicalClockError:
            self.counts["nameless told to pull again"] += 1
            if isinstance(phone, Nameless):
                phone.start_anew()
            return
        self.counts["pages"] += bool(reply.get("more"))
        self.counts["started over"] += bool(reply.get("reset"))
        if not lost:
            self.note_deletes(request, reply)
            phone.receive(request, reply)

    def note_deletes(self, request: Request, reply: Reply) -> None:
        """Of ids that are not used again, what the server was told and has answered is gone."""
        if not reply.get("more"):
            dead = [d for d in request["diffs"] if d["type"] == "delete"]
            self.deleted |= {json.loads(d["json_data"])["id"] for d in dead}

    def deliver_late(self) -> None:
        with suppress(UnknownDeviceError, LogicalClockError):
            self.watch.ask(self.chance.choice(self.earlier), is_late=True)

    def sync_all_of(self, phone: Phone) -> None:
        """Have a phone sync until nothing is left, if it comes to that."""
        for _ in range(6):
            self.sync(phone)
            if phone.has_nothing_left and not phone.must_pull:
                return

    def named_phone(self) -> Phone:
        return self.chance.choice([phone for phone in self.phones if phone.name])

    def two_named_phones(self) -> tuple[Phone, Phone]:
        """Two that differ; the first may be a new one."""
        second = self.named_phone()
        first = self.newcomer() if self.chance.random() < 0.4 else None
        others = [phone for phone in self.phones if phone.name and phone is not second]
        return first or self.chance.choice(others), second

    def newcomer(self) -> Phone | None:
        """A new phone, if there are not many."""
        if len(self.phones) >= MOST_PHONES:
            return None
        self.phones.append(self.new_phone(len(self.phones)))
        self.phone_backups.append(copy.deepcopy(self.phones[-1]))
        return self.phones[-1]

    def lose(self, phone: Phone) -> None:
        """A phone is never seen again, nor anything that it has sent."""
        self.earlier = [each for each in self.earlier if each["device"] != phone.name]
        number = self.phones.index(phone)
        del self.phones[number], self.phone_backups[number]
        self.forget(phone)

    def settle(self) -> None:
        """Have all sync until nothing is left, which takes a few rounds where there are pages."""
        self.pages = False
        for _ in range(8):
            for phone in self.phones:
                self.sync(phone)

    def check(self) -> None:
        rows = self.server.rows()
        for phone in self.phones:
            if phone.rows != rows:
                raise WentWrong(f"diverged: {phone.name} has {phone.rows}, the server {rows}")
            if not phone.has_nothing_left:
                raise WentWrong(f"left over: {phone.name} has {phone.sending + phone.waiting}")
            for object_id, value in phone.said.items():
                if phone.name and rows.get(object_id, {}).get(str(phone.own_field)) != value:
                    raise WentWrong(f"lost: {phone.name} wrote {object_id} {value}, not {rows}")
        all_named = all(phone.name for phone in self.phones)  # else it is a known limit
        back = self.deleted & rows.keys()
        if back and all_named and self.kind == "new ids":
            raise WentWrong(f"came back: {sorted(back)}")
        if self.watch.wrong:
            raise WentWrong(self.watch.wrong[0])
        if self.watch.is_quiet and all_named and self.server.rows_of_log() != len(rows):
            raise WentWrong(f"not folded: {self.server.rows_of_log()} for {len(rows)} objects")


def failure(seed: int, counts: Counter[str], rule: str | None = None) -> str | None:
    """What is wrong at the end of a history; None: nothing.

    Args:
        seed: of the history.
        counts: what happened is added.
        rule: one of RULES, which is taken out.
    """
    of_model = rule is not None and RULES[rule].of_model
    kind = KINDS[seed % len(KINDS)]
    with lacking(rule):
        world = World(seed, kind, Model() if of_model else None, richly=not of_model)
        try:
            world.play()
        except WentWrong as wrong:
            return f"{wrong} ({kind})"
        except Exception as error:
            return f"an error: {error!r} ({kind})"
        finally:
            counts.update(world.counts)
    return None


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="simulation.named", description=__doc__)
    parser.add_argument("--runs", type=int, default=1000, help="how many histories")
    parser.add_argument("--seed", type=int, default=0, help="the first one's seed")
    without = parser.add_mutually_exclusive_group()
    without.add_argument("--without", choices=RULES, help="the rule to remove")
    without.add_argument(
        "--without-each", action="store_true", help="each rule in turn, and print a table"
    )
    options = parser.parse_args(arguments)
    seeds = range(options.seed, options.seed + options.runs)
    return take_out_each(seeds) if options.without_each else simulate(seeds, options.without)


def simulate(seeds: range, rule: str | None = None) -> int:
    """Play a history for each seed, and print counts and failures; return 1 if any failed."""
    counts: Counter[str] = Counter()
    wrong: dict[str, list[int]] = {}
    for seed in seeds:
        what = failure(seed, counts, rule)
        if what is not None:
            check = what.partition(":")[0]
            if check not in wrong:
                print(f"seed {seed}: {what}"[:1000], flush=True)
            wrong.setdefault(check, []).append(seed)
    print(f"histories {len(seeds)}, seeds from {seeds.start}")
    for name, count in sorted(counts.items()):
        print(f"{name:<30} {count}")
    for check, failed in sorted(wrong.items()):
        print(f"WRONG {check:<30} {len(failed)}, the first with seed {failed[0]}")
    return min(1, len(wrong))


def take_out_each(seeds: range) -> int:
    """Print which checks fail without each rule; return 1 if no check fails for one of them.

    If history 8 is the first that fails, 8 more are played.
    """
    print("| Removed rule | Checks that fail, and after how many histories |")
    print("|---|---|", flush=True)
    missed = 0
    for rule in RULES:
        first: dict[str, int] = {}
        for number, seed in enumerate(seeds, 1):
            if first and number > 2 * min(first.values()):
                break
            what = failure(seed, Counter(), rule)
            if what is not None:
                first.setdefault(what.partition(":")[0], number)
        found = ", ".join(f"{check} ({number})" for check, number in first.items())
        print(f"| {rule} | {found or 'nothing'} |", flush=True)
        missed += not first
    return min(1, missed)


if __name__ == "__main__":
    sys.exit(main())
