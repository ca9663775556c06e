"""The Redis client of a cluster: one pipelined connection for each primary, and commands routed by their key."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final, TypeVar

from gregor.cooperative import CALLERS_A_TURN, Pacer
from gregor.redis.address import AddressSource, UrlSource
from gregor.redis.commands import KeyGroup, Script, ScriptCall
from gregor.redis.connect import connect
from gregor.redis.connection import Argument, ConnectionListener, RedisConnection, argument_bytes, pack, pack_script
from gregor.redis.connection import Command as CommandArguments
from gregor.redis.errors import RedisAccessRefused, RedisConnectionLost, RedisUnavailable, ReplyError

from .commands import Batch, BatchCommand, Command, SingleCommand
from .gates import Outlet, SlotGates
from .node import HEARTBEAT_S, ClusterNode, Opener
from .routing import is_read, slot_of_command, slot_of_script
from .slots import SLOTS, NodeAddress, SlotMap, slot_of
from .topology import Topology

_log = logging.getLogger(__name__)

_SWEEP_S: Final = 0.02
"""Interval at which waiting commands are checked, while any waits."""
_RETIRE_SILENT_S: Final = 1.0
"""A node without slots is closed if its replies are this late: its commands hold back others of their slots."""
_RETIRE_S: Final = 10.0
"""How long the connection of a node without slots is kept; it may be the target of a slot that moves."""

_Kind = TypeVar("_Kind", SingleCommand, BatchCommand)


class ClusterClient:
    """``RedisCommands`` over the primaries of a cluster. ``answers`` says what happens to redirects and errors.

    Commands of one slot that succeed are executed in the order of their calls, across redirects and failovers. A script
    that is called for the first time on a node is an exception, as with ``RedisClient``. The bounds of one node never
    delay or refuse the commands of another.

    Args:
        url: ``redis+cluster://…``; see ``RedisUrl.parse``. Its servers are only asked for the slots.
        name: Name of the connections in ``CLIENT LIST``.
        max_wait_s: How long a command may wait and be redirected before it fails with ``RedisUnavailable``.
        timeout_s: Timeout of connecting.
        heartbeat_s, dead_s: See ``ClusterNode``.
        max_in_flight: The most commands of one node without a reply; more are refused (backpressure).
        opener: Opens the connections; tests pass a fake cluster.
    """

    def __init__(
        self,
        url: UrlSource,
        *,
        name: str = "gregor",
        max_wait_s: float = 2.0,
        timeout_s: float = 3.0,
        heartbeat_s: float = HEARTBEAT_S,
        dead_s: float = 3.0,
        max_in_flight: int = 100_000,
        opener: Opener | None = None,
    ) -> None:
        self._addresses = AddressSource(url)
        self.address = self._addresses.current()
        self.error_replies: Counter[str] = Counter()
        """The number of error replies since the start, by their code: MOVED, ASK, TRYAGAIN …"""
        self.slot_changes = 0
        """How often slots have got another owner, by a failover or a move."""
        self._max_wait_s = max_wait_s
        self._timeout_s = timeout_s
        self._heartbeat_s, self._dead_s = heartbeat_s, dead_s
        self._max_in_flight = max_in_flight
        self._fake_opener = opener
        self._opener = self.opener(name)
        self.slot_listeners: list[Callable[[set[int]], None]] = []
        """Called after slots have got another owner, with their numbers."""
        self._loop = asyncio.get_running_loop()
        self._map = SlotMap()
        self._nodes: dict[NodeAddress, ClusterNode] = {}
        self._owners: list[ClusterNode | None] = [None] * SLOTS
        self._primaries: tuple[ClusterNode, ...] = ()
        self._unused_since: dict[NodeAddress, float] = {}
        self._load_commands: list[bytes] = []
        self._gates = SlotGates(self, max_wait_s, self._start_sweeping)
        self._sweeping: asyncio.TimerHandle | None = None
        self._lost_callers = Pacer("redis.lost_command", CALLERS_A_TURN)
        seeds, tls = self.address.hosts, self.address.tls is not None
        self._topology = Topology(self._opener, seeds, self._nodes.values, self._apply, self._is_settled, tls=tls)
        self._closing: set[asyncio.Task[None]] = set()
        self._closed = False

    # ---- life cycle

    async def open(self) -> None:
        """Read the slot map, and connect to the primaries. One reachable primary is enough.

        Raises ``RedisAccessRefused`` at once if no primary accepts this client and one refuses it, ``RedisUnavailable``
        after ``max_wait_s``.
        """
        deadline = self._loop.time() + self._max_wait_s
        while True:
            try:
                found = await self._topology.read()
                break
            except RedisAccessRefused:
                raise
            except RedisUnavailable:
                if self._loop.time() + 0.1 >= deadline:
                    raise
                await asyncio.sleep(0.1)
        for address in found.primaries:
            self._nodes[address] = self._new_node(address)
        connecting = [self._loop.create_task(node.open()) for node in self._nodes.values()]
        await asyncio.wait(connecting, timeout=self._max_wait_s)
        errors = [task.exception() for task in connecting if task.done()]
        for task in connecting:
            task.cancel()
        self._apply(found)
        if not any(node.connected for node in self._nodes.values()):
            # A refusal is a wrong setting: it is reported rather than the failure of another node.
            errors.sort(key=lambda error: not isinstance(error, RedisAccessRefused))
            raise next(iter(filter(None, errors)), RedisUnavailable("no primary of the cluster answers"))
        self._topology.request()

    async def close(self) -> None:
        """See ``RedisCommands.close``."""
        self._closed = True
        await self._topology.close()
        if self._sweeping is not None:
            self._sweeping.cancel()
        self._gates.fail_all("the client of the cluster is closed")
        await asyncio.gather(*(node.close() for node in self._nodes.values()), *self._closing)
        self._gates.fail_all("the client of the cluster is closed")

    async def load(self, scripts: Sequence[Script]) -> None:
        """See ``RedisCommands.load``: on every primary. Those that are not connected load them when they are.

        Raises ``ReplyError`` for a script that does not compile, ``RedisUnavailable`` if no primary answers.
        """
        packed = [pack(("SCRIPT", "LOAD", script.source)) for script in scripts]
        self._load_commands += packed
        calls = [
            node.call("SCRIPT", "LOAD", script.source)
            for node in self._nodes.values()
            if node.is_open
            for script in scripts
        ]
        replies = await asyncio.gather(*calls, return_exceptions=True)
        refused = [reply for reply in replies if isinstance(reply, ReplyError)]
        if refused:
            del self._load_commands[-len(packed) :]
            raise refused[0]
        if scripts and not any(isinstance(reply, bytes) for reply in replies):
            raise RedisUnavailable(self._gates.reason)

    # ---- commands

    def call(self, *args: Argument) -> asyncio.Future[Any]:
        """See ``RedisCommands.call``."""
        return self._issue(self._command(SingleCommand, args))

    def evalsha(self, script: Script, keys: Sequence[Argument], args: Sequence[Argument]) -> asyncio.Future[Any]:
        """See ``RedisCommands.evalsha``."""
        return self.run((script, pack_script(script.sha, keys, args)))

    def run(self, call: ScriptCall) -> asyncio.Future[Any]:
        """See ``RedisCommands.run``."""
        return self._issue(self._script_command(SingleCommand, call))

    async def run_many(self, calls: Sequence[ScriptCall]) -> list[Any]:
        """See ``RedisCommands.run_many``: one write for each node."""
        return await self._issue_many([self._script_command(BatchCommand, call) for call in calls])

    async def call_many(self, commands: Sequence[CommandArguments]) -> list[Any]:
        """See ``RedisCommands.call_many``."""
        return await self._issue_many([self._command(BatchCommand, args) for args in commands])

    @property
    def nodes(self) -> Sequence[ClusterNode]:
        """See ``RedisCommands.nodes``: the primaries in the order of their slots."""
        return self._primaries

    def group_by_node(self, keys: Sequence[Argument]) -> list[KeyGroup]:
        """See ``RedisCommands.group_by_node``."""
        places: dict[ClusterNode | None, list[int]] = {}
        for place, key in enumerate(keys):
            owner = self._owners[slot_of(argument_bytes(key))]
            places.setdefault(owner, []).append(place)
        return [KeyGroup(owner, of_owner) for owner, of_owner in places.items()]

    @property
    def covered_slots(self) -> int:
        """The number of slots with a connected owner."""
        return sum(1 for owner in self._owners if owner is not None and owner.connected)

    @property
    def waiting(self) -> int:
        """The number of commands that wait because their slot cannot be served now."""
        return self._gates.waiting

    @property
    def topology_reads(self) -> int:
        """The number of slot maps that were read."""
        return self._topology.reads

    @property
    def primary_addresses(self) -> tuple[NodeAddress, ...]:
        """The addresses of the primaries."""
        return tuple(node.address for node in self._primaries)

    def owner_address(self, slot: int) -> NodeAddress | None:
        """Return the address of a slot's owner."""
        return self._map.owners[slot]

    # ---- issuing

    def _issue(self, command: SingleCommand) -> asyncio.Future[Any]:
        command.future = self._loop.create_future()
        self._dispatch(command)
        return command.future

    async def _issue_many(self, commands: Sequence[BatchCommand]) -> list[Any]:
        if not commands:
            return []
        batch = Batch(len(commands), self._loop)
        for place, command in enumerate(commands):
            command.batch, command.place = batch, place
            self._dispatch(command)
        return await batch.complete

    def _dispatch(self, command: Command) -> None:
        if self._closed:
            command.give_up("the client of the cluster is closed")
            return
        self._gates.issue(command, self._loop.time())

    def _command(self, kind: type[_Kind], args: CommandArguments) -> _Kind:
        deadline = self._loop.time() + self._max_wait_s
        return kind(slot_of_command(args), pack(args), deadline, is_repeatable=is_read(args))

    def _script_command(self, kind: type[_Kind], call: ScriptCall) -> _Kind:
        script, packed = call
        deadline = self._loop.time() + self._max_wait_s
        return kind(slot_of_script(packed), packed, deadline, script, is_repeatable=script.is_repeatable)

    # ---- the nodes, as the gates see them

    def owner_of(self, slot: int) -> Outlet | None:
        """See ``gates.Owners``."""
        return self._owners[slot]

    def node_at(self, address: NodeAddress) -> Outlet:
        """See ``gates.Owners``."""
        return self._node(address)

    def move(self, slot: int, address: NodeAddress) -> None:
        """See ``gates.Owners``."""
        self._map.move(slot, address)
        self.slot_changes += 1
        node = self._owners[slot] = self._node(address)
        if node not in self._primaries:
            self._primaries = (*self._primaries, node)
        self._notify_listeners({slot})

    def refresh(self) -> None:
        """See ``gates.Owners``."""
        if not self._closed:
            self._topology.request()

    def pump_soon(self) -> None:
        """See ``gates.Owners``."""
        self._loop.call_soon(lambda: self._gates.pump_more(self._loop.time()))

    # ---- events of the nodes

    @property
    def watches_replies(self) -> bool:
        """See ``NodeEvents``: the gates see every reply while a slot has a gate."""
        return bool(self._gates)

    def on_answer(self, node: ClusterNode, command: Command, reply: Any) -> None:
        """See ``NodeEvents``."""
        if isinstance(reply, ReplyError):
            self.error_replies[reply.code] += 1
        self._gates.answered(node, command, reply, self._loop.time())

    def on_progress(self, node: ClusterNode) -> None:
        """See ``NodeEvents``."""
        self._gates.progressed(node, self._loop.time())

    def on_open(self, node: ClusterNode) -> None:
        """See ``NodeEvents``."""
        self._gates.pump_all(self._loop.time())

    def on_lost(self, node: ClusterNode, written: Sequence[Command], unwritten: Sequence[Command], reason: str) -> None:
        """See ``NodeEvents``."""
        for command in self._gates.lost(node, written, unwritten, reason, self._loop.time()):
            # Thousands of commands can be lost at once, so their callers continue a few at a time.
            error = RedisConnectionLost(f"{reason}; it is unknown whether the command was executed")
            if self._closed:
                command.finish(error)
            else:
                self._lost_callers.run(partial(command.finish, error))

    # ---- topology

    def opener(self, name: str) -> Opener:
        """Return a function that opens a connection to a node under a name, with the credentials of the URL."""
        if self._fake_opener is not None:
            return self._fake_opener

        async def open_connection(address: NodeAddress, listener: ConnectionListener) -> RedisConnection:
            return await connect(self._addresses.current().server(*address), name, listener, self._timeout_s)

        return open_connection

    def _new_node(self, address: NodeAddress) -> ClusterNode:
        node = ClusterNode(
            address,
            self._opener,
            self,
            max_in_flight=self._max_in_flight,
            heartbeat_s=self._heartbeat_s,
            dead_s=self._dead_s,
        )
        node.load_commands = self._load_commands
        return node

    def _node(self, address: NodeAddress) -> ClusterNode:
        node = self._nodes.get(address)
        if node is None:
            node = self._nodes[address] = self._new_node(address)
            node.start()
        return node

    def _apply(self, found: SlotMap) -> None:
        """Use a new slot map: connect to new primaries, and send what waits for them."""
        changed = found.changed_from(self._map)
        if changed and self._map.is_complete:
            self.slot_changes += 1
        self._map = found
        self._primaries = tuple(self._node(address) for address in found.primaries)
        for node in self._primaries:
            node.start()
        self._owners = found.spread(self._node)
        if changed:
            _log.info("redis.slots_changed slots=%d primaries=%d", len(changed), len(self._primaries))
        self._gates.moved(changed, self._nodes.values(), self._loop.time())
        self._retire()
        if changed:
            self._notify_listeners(changed)

    def _notify_listeners(self, slots: set[int]) -> None:
        # Not at once: a listener must not call back in the middle of a decision about a command.
        for listener in self.slot_listeners:
            self._loop.call_soon(listener, slots)

    def _retire(self) -> None:
        """Close the connections of nodes without slots: at once if the node hangs, else when they are unused."""
        now = self._loop.time()
        for address, node in list(self._nodes.items()):
            if node in self._primaries:
                self._unused_since.pop(address, None)
            elif node.silent_s > _RETIRE_SILENT_S:
                node.abort("is no longer a primary, and does not answer")
            elif now - self._unused_since.setdefault(address, now) > _RETIRE_S:
                del self._nodes[address], self._unused_since[address]
                task = self._loop.create_task(node.close())
                self._closing.add(task)
                task.add_done_callback(self._closing.discard)

    def _is_settled(self) -> bool:
        return not self._gates.waiting and all(node.connected for node in self._primaries)

    # ---- waiting commands

    def _start_sweeping(self) -> None:
        if self._sweeping is None and not self._closed:
            self._sweeping = self._loop.call_later(_SWEEP_S, self._sweep)

    def _sweep(self) -> None:
        self._sweeping = None
        self._gates.sweep(self._loop.time())
        if self._gates:
            self._start_sweeping()
