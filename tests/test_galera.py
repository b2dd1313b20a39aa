"""Three servers of an app on a real Galera cluster of three nodes: one log, whichever is asked."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import tempfile
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from server_process import eventually
from small_device import SmallDevice
from sqlalchemy import create_engine, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool

from mobync import BusyError, Mobync, UnavailableError
from mobync.sqlalchemy import DocumentSynchronizer

PROVIDER = "/usr/lib/galera/libgalera_smm.so"
USER = "mysql" if os.geteuid() == 0 else ""


class Node:
    """One mariadbd of the cluster, with a server of the app that knows only this node."""

    def __init__(self, place: Path, number: int, ports: list[int]) -> None:
        self.place, self.ports = place, ports
        self.data = place / f"node{number}"
        self.process: subprocess.Popen[bytes] | None = None
        shutil.copytree(place / "empty", self.data)
        if USER:
            subprocess.run(["chown", "-R", USER, str(self.data)], check=True)
        url = f"mariadb+pymysql://root@127.0.0.1:{ports[0]}/test"
        self.engine = create_engine(url, pool_pre_ping=True)

    def start(self, others: list[str]) -> None:
        port, group, transfer, state = self.ports
        settings = {
            "datadir": self.data,
            "socket": self.data / "socket",
            "pid-file": self.data / "pid",
            "port": port,
            "bind-address": "127.0.0.1",
            "binlog-format": "ROW",
            "innodb-autoinc-lock-mode": 2,
            "innodb-flush-log-at-trx-commit": 0,
            "innodb-buffer-pool-size": "32M",
            "character-set-server": "utf8mb4",
            "wsrep-on": "ON",
            "wsrep-provider": PROVIDER,
            "wsrep-cluster-name": "mobync",
            "wsrep-cluster-address": "gcomm://" + ",".join(others),
            "wsrep-node-address": "127.0.0.1",
            "wsrep-sst-method": "rsync",
            "wsrep-sst-receive-address": f"127.0.0.1:{state}",
            "wsrep-provider-options": f"gmcast.listen_addr=tcp://127.0.0.1:{group};"
            f"ist.recv_addr=127.0.0.1:{transfer}",
        }
        command = ["mariadbd", "--no-defaults", *([f"--user={USER}"] if USER else [])]
        command += [f"--{name}={value}" for name, value in settings.items()]
        command += [] if others else ["--wsrep-new-cluster"]
        log = (self.place / f"{self.data.name}.log").open("wb")
        self.process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
        log.close()

    def wait_until_synced(self) -> None:
        try:
            eventually(lambda: self.has_ended() or self.is_synced())
            assert not self.has_ended()
        except AssertionError as error:
            raise AssertionError((self.place / f"{self.data.name}.log").read_text()) from error

    def has_ended(self) -> bool:
        return self.process is None or self.process.poll() is not None

    def is_synced(self) -> bool:
        engine = create_engine(self.engine.url.set(database=None), poolclass=NullPool)
        try:
            with engine.connect() as connection:
                status = "SHOW STATUS LIKE 'wsrep_local_state_comment'"
                return connection.execute(text(status)).one()[1] == "Synced"
        except DBAPIError:
            return False

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()


def free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as held:
        probes = [held.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]


@pytest.fixture(scope="module")
def nodes() -> Iterator[list[Node]]:
    # Not in pytest's own folder, which the database's user may not enter.
    place = Path(tempfile.mkdtemp(prefix="galera-"))
    place.chmod(0o755)
    made = ["mariadb-install-db", "--no-defaults", f"--datadir={place / 'empty'}"]
    made += ["--auth-root-authentication-method=normal", *([f"--user={USER}"] if USER else [])]
    subprocess.run(made, check=True, capture_output=True)
    ports = free_ports(12)
    cluster = [Node(place, number, ports[number::3]) for number in range(3)]
    try:
        others: list[str] = []
        for node in cluster:  # one at a time: one that joins can give no state to the next
            node.start(others)
            node.wait_until_synced()
            others.append(f"127.0.0.1:{node.ports[1]}")
        store = DocumentSynchronizer(cluster[0].engine)
        store.metadata.create_all(cluster[0].engine)
        yield cluster
    finally:
        for node in cluster:
            node.engine.dispose()
            node.kill()
        shutil.rmtree(place)


def app_on(node: Node) -> Mobync:
    return Mobync(DocumentSynchronizer(node.engine))


class Link:
    """A device's way to the app: the next server each time, as behind a proxy."""

    def __init__(self, apps: list[Mobync], owner_id: str) -> None:
        self.apps, self.owner_id, self.next = apps, owner_id, 0

    def post(self, body: dict[str, Any]) -> dict[str, Any]:
        for _ in range(20):
            self.next += 1
            app = self.apps[self.next % len(self.apps)]
            with contextlib.suppress(BusyError):  # and UnavailableError: the device tries again
                reply = app.apply(body["logical_clock"], body["diffs"], self.owner_id)
                return {**reply}
        raise AssertionError("no node took it")


def documents(node: Node, owner: str) -> dict[str, str]:
    return {d.id: d.text for d in DocumentSynchronizer(node.engine).documents(owner)}


def rows_after_sync(device: SmallDevice) -> dict[str, Any]:
    device.sync()
    return device.rows


def test_devices_go_from_node_to_node_and_lose_nothing(nodes: list[Node]) -> None:
    apps = [app_on(node) for node in nodes]
    phone, tablet = SmallDevice(Link(apps, "anna")), SmallDevice(Link(apps, "anna"), "tablet")
    for number in range(15):
        phone.edit("create", {"id": f"p{number}", "name": "milk"}, number + 1)
        phone.sync()
        tablet.edit("create", {"id": f"t{number}", "name": "bread"}, number + 1)
        tablet.sync()  # each asks another node than the last one did
    assert len(tablet.rows) == 30
    eventually(lambda: rows_after_sync(phone) == tablet.rows)  # a poll may ask a node that lags


def test_writers_at_three_nodes_at_once_make_one_log(nodes: list[Node]) -> None:
    def write(number: int) -> None:
        device = SmallDevice(Link([app_on(nodes[number])], "ben"), str(number))
        for edit in range(8):
            device.edit("create", {"id": f"{number}-{edit}", "name": "milk"}, edit + 1)
            device.sync()

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(write, range(3)))
    late = SmallDevice(Link([app_on(nodes[0])], "ben"))
    all_ids = {f"{n}-{e}" for n in range(3) for e in range(8)}
    eventually(lambda: rows_after_sync(late).keys() == all_ids)
    with nodes[1].engine.connect() as connection:
        connection.execute(text("SET wsrep_sync_wait = 1"))
        clocks = list(connection.scalars(text("SELECT logical_clock FROM diffs WHERE owner='ben'")))
    assert sorted(clocks) == list(range(24))


def give_the_others_work(node: Node) -> None:
    """Commit rows at a node that the others apply for a while, before all that comes after."""
    with node.engine.begin() as connection:
        connection.execute(text("CREATE OR REPLACE TABLE much (id INT PRIMARY KEY, b INT UNIQUE)"))
        connection.execute(text("INSERT INTO much SELECT seq, seq FROM seq_1_to_200000"))


def kinds_of_sync(owner: str) -> list[list[dict[str, Any]]]:
    new = {"id": str(uuid.uuid4()), "owner": owner, "logical_clock": 1, "utc_timestamp": 1}
    return [[], [{**new, "type": "create", "model": "tasks", "json_data": '{"id": "u"}'}]]


@pytest.mark.parametrize("what", [0, 1], ids=["poll", "push"])
def test_a_node_that_lags_is_waited_for(nodes: list[Node], what: int) -> None:
    owner = f"owner {uuid.uuid4()}"
    first = SmallDevice(Link([app_on(nodes[0])], owner))
    first.sync()
    app_on(nodes[1]).apply(0, [], owner)
    first.edit("create", {"id": "t", "name": "milk"}, 1)
    give_the_others_work(nodes[0])
    first.sync()  # at the first node; the second does not have it yet
    reply = app_on(nodes[1]).apply(1, kinds_of_sync(owner)[what], owner)
    assert reply["logical_clock"] == 1 + what


def test_two_nodes_go_on_and_one_alone_says_that_it_cannot(nodes: list[Node]) -> None:
    owner = f"owner {uuid.uuid4()}"
    device = SmallDevice(Link([app_on(node) for node in nodes], owner))
    nodes[2].kill()
    for number in range(6):
        device.edit("create", {"id": f"{number}"}, number + 1)
        device.sync()
    assert documents(nodes[0], owner).keys() == {str(number) for number in range(6)}
    nodes[1].kill()
    alone = app_on(nodes[0])

    def refuses() -> bool:
        try:
            alone.apply(6, [], owner)
        except UnavailableError:
            return True
        return False

    eventually(refuses)
