"""A cluster in memory that a test controls step by step: three shards with a replica each, and the network to them.

Nodes answer as real ones do (``getNodeByQuery`` in cluster.c): MOVED, ASK, TRYAGAIN, CLUSTERDOWN, LOADING, NOSCRIPT,
OOM. Requests wait until ``process``, replies until ``reply``, so every order of events can be produced. ``log`` has
each execution, and whether a failover lost it.

Two scripts exist. ``PUSH`` appends a token to its first key; a repetition appends it again. ``ADD`` appends it unless
it is there, so a repetition is harmless.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass, field
from typing import Any, Final

import hiredis

from gregor.redis.cluster.slots import NodeAddress, slot_of
from gregor.redis.commands import Script
from gregor.redis.connection import Command, ConnectionListener
from gregor.redis.errors import RedisUnavailable, ReplyError

PUSH: Final = Script("push")
ADD: Final = Script("add", is_repeatable=True)
_SCRIPTS: Final = {script.sha: script for script in (PUSH, ADD)}
SHARDS: Final = 3
_RANGES: Final = ((0, 5_460), (5_461, 10_921), (10_922, 16_383))
KEPT: Final = {5: 0, 17: 0, 6_000: 1, 12_000: 2}
"""Slots that the tests use, and the shard that owns each at first."""


@dataclass
class Execution:
    """One execution of a script. ``has_effect``: the token was appended."""

    slot: int
    token: str
    node: NodeAddress
    key: str
    has_effect: bool
    survived: bool = True


class FakeConnection:
    """What ``RedisConnection`` is to a client: here a queue in each direction."""

    def __init__(self, node: FakeNode, listener: ConnectionListener | None) -> None:
        self._loop = asyncio.get_running_loop()
        self.node = node
        self.listener = listener
        self.requests: deque[list[bytes]] = deque()
        self.calls: list[int] = []
        """The number of scripts that each write called."""
        self.replies: deque[Any] = deque()
        self.asking = False
        self.refusals: list[tuple[ReplyError, str]] = []
        self.delivered: list[ReplyError] = []
        self.subscribed: set[tuple[bool, bytes]] = set()
        self.server_id: str | None = f"{node.address}"
        self.is_stale = False
        self.is_deaf = False
        """Gets no messages until it is replaced, although its subscriptions are confirmed."""
        self.writable = True
        self.last_received_at = self._loop.time()
        self.close_reason: str | None = None
        self.closed = asyncio.Event()
        self._reader = hiredis.Reader()
        self._answers: asyncio.Future[list[Any]] | None = None

    def stall(self) -> None:
        """Accept one more write, and no further ones until ``resume``: the server reads slowly."""
        self.writable = False

    def resume(self) -> None:
        if not self.writable and self.close_reason is None:
            self.writable = True
            if self.listener is not None:
                self.listener.on_resumed()

    def write(self, data: bytes) -> None:
        self._reader.feed(data)
        self.calls.append(0)
        while (request := self._reader.gets()) is not False:
            self.requests.append(request)
            self.calls[-1] += request[0] == b"EVALSHA"

    async def request(self, commands: list[Command]) -> list[Any]:
        for command in commands:
            self.write(hiredis.pack_command(command))  # type: ignore[arg-type]
        self._answers = self._loop.create_future()
        return await self._answers

    def forget_refusals(self) -> None:
        """Note the calls whose refusals the client never sees: the connection is closed."""
        unseen = {id(reply) for reply in self.replies if isinstance(reply, ReplyError)}
        lost = [(error, token) for error, token in self.refusals if id(error) in unseen or self.closed.is_set()]
        self.node.cluster.refused_unseen |= {token for error, token in lost if error not in self.delivered}

    def deliver(self, count: int) -> int:
        """Give the client some replies in one read. Returns how many."""
        replies = [self.replies.popleft() for _ in range(min(count, len(self.replies)))]
        if not replies or self.close_reason is not None:
            return 0
        self.last_received_at = self._loop.time()
        self.delivered += [reply for reply in replies if isinstance(reply, ReplyError)]
        if self._answers is not None and not self._answers.done():
            self._answers.set_result(replies)
        elif self.listener is not None:
            self.listener.on_replies(replies)
        return len(replies)

    def abort(self, reason: str) -> None:
        if self.close_reason is not None:
            return
        self.close_reason = reason
        self.closed.set()
        self.forget_refusals()
        if self._answers is not None and not self._answers.done():
            self._answers.set_exception(RedisUnavailable(reason))
        if self.listener is not None:
            self.listener.on_lost(reason)


class FakeNode:
    """A node with its own view of the cluster, which may be out of date."""

    def __init__(self, cluster: FakeCluster, address: NodeAddress) -> None:
        self.cluster = cluster
        self.address = address
        self.view: dict[int, NodeAddress] = {}
        self.epoch = 1
        self.migrating: dict[int, NodeAddress] = {}
        self.importing: dict[int, NodeAddress] = {}
        self.data: dict[str, list[str]] = {}
        self.scripts: set[str] = set()
        self.connections: list[FakeConnection] = []
        self.subscriptions: list[tuple[bytes, int]] = []
        """The pub/sub commands that were executed, and the number of their channels."""
        self.is_up = True
        self.is_hung = False
        self.is_deaf = False
        """Confirms subscriptions, but delivers nothing."""
        self.error: str | None = None
        """An error reply to every command with a key: ``LOADING …``, ``CLUSTERDOWN …``, ``OOM …``."""

    # ---- network

    def process(self, count: int = 1_000) -> int:
        """Execute waiting requests, those of closed connections too: they were in the socket buffer."""
        done = 0
        for connection in list(self.connections):
            while connection.requests and done < count and self.is_up and not self.is_hung:
                self._execute_request(connection, connection.requests.popleft())
                done += 1
            if connection.close_reason is not None and not connection.requests:
                self.connections.remove(connection)
        return done

    def reply(self, count: int = 1_000) -> int:
        """Deliver replies that are ready. Returns how many."""
        if self.is_hung:
            return 0
        return sum(connection.deliver(count) for connection in list(self.connections))

    def cut(self, *, discard: bool) -> None:
        """Break all connections. ``discard``: the node never sees the requests that wait."""
        for connection in list(self.connections):
            if discard:
                connection.requests.clear()
            connection.abort("broke the connection")

    def kill(self) -> None:
        """End the process with everything in its sockets."""
        self.is_up, self.is_hung, self.error = False, False, None
        self.scripts.clear()
        self.cut(discard=True)
        self.connections.clear()

    # ---- pub/sub

    def _execute_request(self, connection: FakeConnection, request: list[bytes]) -> None:
        kind, *names = request
        if kind in (b"SSUBSCRIBE", b"SUNSUBSCRIBE", b"SUBSCRIBE", b"UNSUBSCRIBE"):
            connection.replies += self._subscribe(connection, kind, names)
        elif kind in (b"SPUBLISH", b"PUBLISH"):
            connection.replies.append(self._publish(kind, *names))
        else:
            connection.replies.append(self._answer(connection, request))

    def _subscribe(self, connection: FakeConnection, kind: bytes, names: list[bytes]) -> list[Any]:
        sharded = kind.startswith(b"S") and kind != b"SUBSCRIBE"
        if sharded:
            slots = {slot_of(name) for name in names}
            if len(slots) > 1:
                return [ReplyError("CROSSSLOT Keys in request don't hash to the same slot")]
            [slot] = slots
            host, port = owner = self.owner_of(slot)
            if owner != self.address:
                return [ReplyError(f"MOVED {slot} {host}:{port}")]
        self.subscriptions.append((kind, len(names)))
        for name in names:
            change = connection.subscribed.discard if kind.endswith(b"UNSUBSCRIBE") else connection.subscribed.add
            change((sharded, name))
        return [[kind.lower(), name, len(connection.subscribed)] for name in names]

    def _publish(self, kind: bytes, name: bytes, payload: bytes) -> Any:
        sharded = kind == b"SPUBLISH"
        host, port = owner = self.owner_of(slot_of(name))
        if sharded and owner != self.address:
            return ReplyError(f"MOVED {slot_of(name)} {host}:{port}")
        for node in [self] if sharded else [each for each in self.cluster.nodes.values() if each.is_up]:
            for connection in node.connections:
                if (sharded, name) in connection.subscribed and not (node.is_deaf or connection.is_deaf):
                    connection.replies.append([b"smessage" if sharded else b"message", name, payload])
        return 1

    def withdraw(self) -> None:
        """End the subscriptions of slots that this node does not own, as real nodes do when they learn of it."""
        for connection in self.connections:
            for sharded, name in sorted(connection.subscribed):
                if sharded and self.owner_of(slot_of(name)) != self.address:
                    connection.subscribed.discard((sharded, name))
                    connection.replies.append([b"sunsubscribe", name, len(connection.subscribed)])

    def owner_of(self, slot: int) -> NodeAddress:
        """Return the owner of a slot as this node sees it."""
        known = self.view.get(slot)
        if known is not None:
            return known
        [shard] = [shard for shard, (first, last) in enumerate(_RANGES) if first <= slot <= last]
        return self.cluster.base[shard]

    # ---- answers

    def _answer(self, connection: FakeConnection, request: list[bytes]) -> Any:
        asking, connection.asking = connection.asking, False
        match [word.decode() for word in request]:
            case ["ASKING"]:
                connection.asking = True
                return b"OK"
            case ["PING"]:
                return b"PONG"
            case ["CLUSTER", "INFO"]:
                return f"cluster_state:ok\r\ncluster_current_epoch:{self.epoch}\r\n".encode()
            case ["CLUSTER", "SHARDS"]:
                return self._shards()
            case ["SCRIPT", "LOAD", source]:
                self.scripts.add(Script(source).sha)
                return Script(source).sha.encode()
            case ["EVALSHA", sha, count, *rest]:
                keys, arguments = rest[: int(count)], rest[int(count) :]
                refusal = self._refusal(keys, asking, connection.is_stale)
                if refusal is None and sha not in self.scripts:
                    refusal = "NOSCRIPT No matching script."
                    self.cluster.without_script.add(arguments[0])
                if refusal is None:
                    return self._execute(_SCRIPTS[sha], keys, arguments[0])
                error = ReplyError(refusal)
                connection.refusals.append((error, arguments[0]))
                if connection.close_reason is not None:
                    connection.forget_refusals()
                return error
        return ReplyError(f"ERR unknown command {request!r}")

    def _refusal(self, keys: list[str], asking: bool, is_stale: bool) -> str | None:
        slot, missing = slot_of(keys[0].encode()), [key for key in keys if key not in self.data]
        if is_stale:
            return f"MOVED {slot} {self.address[0]}:{self.address[1]}"
        if self.error is not None:
            return self.error
        owner = self.view[slot]
        if owner == self.address:
            if slot not in self.migrating or not missing:
                return None
            if len(missing) < len(keys):
                return "TRYAGAIN Multiple keys request during rehashing of slot"
            host, port = self.migrating[slot]
            return f"ASK {slot} {host}:{port}"
        if slot in self.importing and asking:
            return "TRYAGAIN Multiple keys request during rehashing of slot" if len(keys) > 1 and missing else None
        return f"MOVED {slot} {owner[0]}:{owner[1]}"

    def _execute(self, script: Script, keys: list[str], token: str) -> int:
        for key in keys:
            self.data.setdefault(key, [])
        tokens = self.data[keys[0]]
        has_effect = script is PUSH or token not in tokens
        if has_effect:
            tokens.append(token)
        slot = slot_of(keys[0].encode())
        # A node that was replaced but does not know yet executes, and all of that is lost.
        survives = self.cluster.truth[slot] == self.address or slot in self.importing
        self.cluster.log.append(Execution(slot, token, self.address, keys[0], has_effect, survives))
        return len(tokens)

    def _shards(self) -> list[Any]:
        own: dict[NodeAddress, list[int]] = {}
        for shard, (first, last) in enumerate(_RANGES):
            moved = sorted(slot for slot in KEPT if first <= slot <= last)
            owner = self.cluster.base[shard]
            for slot in moved:
                own.setdefault(self.view[slot], []).extend((slot, slot))
                if first <= slot - 1:
                    own.setdefault(owner, []).extend((first, slot - 1))
                first = slot + 1
            own.setdefault(owner, []).extend((first, last))
        return [
            [b"slots", slots, b"nodes", [[b"port", port, b"endpoint", host.encode(), b"role", b"master"]]]
            for (host, port), slots in own.items()
        ]


@dataclass
class FakeCluster:
    """All nodes, the true owners, and the log of executions."""

    nodes: dict[NodeAddress, FakeNode] = field(default_factory=dict)
    truth: dict[int, NodeAddress] = field(default_factory=dict)
    log: list[Execution] = field(default_factory=list)
    without_script: set[str] = field(default_factory=set)
    """Tokens of calls that were answered with NOSCRIPT; later calls may be executed before these."""
    refused_unseen: set[str] = field(default_factory=set)
    """Tokens of calls that a node refused, but the connection broke before the client saw it."""
    epoch: int = 1
    base: list[NodeAddress] = field(default_factory=list)
    """The primary of each shard."""
    replicas: list[NodeAddress] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.base = [("n", 1 + shard) for shard in range(SHARDS)]
        self.replicas = [("n", 11 + shard) for shard in range(SHARDS)]
        self.truth = {slot: self.base[shard] for slot, shard in KEPT.items()}
        for address in (*self.base, *self.replicas):
            self.nodes[address] = node = FakeNode(self, address)
            node.view = dict(self.truth)

    @property
    def url(self) -> str:
        return "redis+cluster://" + ",".join(f"{host}:{port}" for host, port in self.base)

    async def open(self, address: NodeAddress, listener: ConnectionListener) -> Any:
        """Open a connection, as ``node.Opener``. A hung node does not answer, until the timeout."""
        node = self.nodes[address]
        if node.is_hung:
            await asyncio.sleep(3.0)
        if not node.is_up or node.is_hung:
            raise RedisUnavailable(f"cannot connect to {address[0]}:{address[1]}")
        await asyncio.sleep(0)
        connection = FakeConnection(node, listener)
        node.connections.append(connection)
        return connection

    # ---- the network of all nodes

    def run(self) -> bool:
        """Process and deliver everything. Returns whether there was anything."""
        busy = False
        for node in self.nodes.values():
            busy = node.process() + node.reply() > 0 or busy
        return busy

    def gossip(self, *addresses: NodeAddress) -> None:
        """Let nodes learn the truth: the given ones, or all."""
        for address in addresses or tuple(self.nodes):
            self.nodes[address].view = dict(self.truth)
            self.nodes[address].epoch = self.epoch
            self.nodes[address].withdraw()

    # ---- moving slots, failing over

    def move_atomically(self, slot: int, target: NodeAddress) -> None:
        """Move a slot with its keys in one step; other nodes learn it by ``gossip``."""
        source = self.nodes[self.truth[slot]]
        self._move_keys(slot, source, self.nodes[target], 1_000)
        self.truth[slot] = target
        self.epoch += 1
        self.gossip(source.address, target)

    def open_slot(self, slot: int, target: NodeAddress) -> None:
        """Begin to move a slot key by key."""
        source = self.truth[slot]
        self.nodes[target].importing[slot] = source
        self.nodes[source].migrating[slot] = target

    def move_some_keys(self, slot: int, count: int) -> None:
        source = self.nodes[self.truth[slot]]
        self._move_keys(slot, source, self.nodes[source.migrating[slot]], count)

    def close_slot(self, slot: int) -> None:
        """End the move of a slot: its target is the owner."""
        source = self.nodes[self.truth[slot]]
        target = self.nodes[source.migrating.pop(slot)]
        self._move_keys(slot, source, target, 1_000)
        del target.importing[slot]
        self.truth[slot] = target.address
        self.epoch += 1
        self.gossip(target.address, source.address)

    def fail_over(self, shard: int, lost: int) -> None:
        """Promote the replica of a shard. It lacks the last ``lost`` executions of the old primary."""
        old, new = self.nodes[self.base[shard]], self.nodes[self.replicas[shard]]
        own = [each for each in self.log if each.node == old.address and each.has_effect and each.survived]
        for execution in own[len(own) - lost :] if lost else []:
            tokens = old.data.get(execution.key, [])
            if self.truth[execution.slot] == old.address and execution.token in tokens:
                tokens.remove(execution.token)
                execution.survived = False
        new.data = {key: list(tokens) for key, tokens in old.data.items()}
        self.base[shard], self.replicas[shard] = new.address, old.address
        for slot, owner in self.truth.items():
            if owner == old.address:
                self.truth[slot] = new.address
        self.epoch += 1
        self.gossip(new.address)

    def restart(self, address: NodeAddress) -> None:
        """Start a killed node, or wake a hung one. It finds its place in the cluster at once."""
        node = self.nodes[address]
        if node.is_hung:
            node.is_hung = False
            node.process()  # first what is in its sockets, as it knew the cluster before
        node.is_up = True
        self.gossip(address)

    def repair(self) -> None:
        """End every fault: all nodes run and agree."""
        for node in self.nodes.values():
            for connection in list(node.connections):
                connection.resume()
        for slot, owner in list(self.truth.items()):
            if slot in self.nodes[owner].migrating:
                self.close_slot(slot)
        for node in self.nodes.values():
            node.error = None
            node.is_deaf = False
            if not node.is_up or node.is_hung:
                self.restart(node.address)
        self.gossip()

    def _move_keys(self, slot: int, source: FakeNode, target: FakeNode, count: int) -> None:
        for key in sorted(key for key in source.data if slot_of(key.encode()) == slot)[:count]:
            target.data[key] = source.data.pop(key)
