"""The order of a slot's commands while they cannot simply be sent: a redirect, a slot that moves, a lost connection.

Normally a slot has no gate: its commands go to its owner, whose connection keeps their order. A gate closes when the
first command of a slot cannot be executed. Later commands of the slot wait behind it. Before the gate sends anything,
all commands of the slot that are in flight must have been answered, or their connection must be lost: otherwise one of
them could be executed between two that were sent again.

A command in flight behind a refused one cannot be held back, and may be executed (only while a slot moves key by key).
Then the refused one fails instead of being executed too late.

This module has no clock and does no I/O: the time is an argument, and nodes are ``Outlet`` objects.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from enum import Enum, auto
from typing import Any, Final, Protocol

from gregor.cooperative import CALLERS_A_TURN
from gregor.redis.commands import Script

from .answers import Action, Decision, decide
from .commands import Command
from .slots import NodeAddress

MAX_REDIRECTS: Final = 5
"""Redirects of a command that are followed at once; further ones wait, in case the nodes disagree."""
REDIRECT_DELAY_S: Final = 0.1
"""Delay of each further redirect."""
WAIT_DELAY_S: Final = 0.1
"""Delay after CLUSTERDOWN and similar, before one command asks again."""
TRY_AGAIN_S: Final = 0.25
"""How long TRYAGAIN is repeated. The rest of the slot waits meanwhile, so this is short."""
TRY_AGAIN_DELAY_S: Final = 0.02
"""Delay after TRYAGAIN, before the same command is sent again."""
SERIAL_S: Final = 1.0
"""How long after ASK or TRYAGAIN a slot has one command in flight, so that no refused command is overtaken."""
MAX_WAITING_BYTES: Final = 64 * 1024 * 1024
"""Bytes that wait for one node. The bound of one node does not affect the others."""
_COMMAND_BYTES: Final = 500  # memory of a waiting command beside its packed form


class Outlet(Protocol):
    """A node as the gates see it.

    Attributes:
        sent: How many commands were sent to this node.
        answered: How many of them were answered, or lost with their connection. Replies come in order.
        draining: Gates that wait until ``answered`` reaches a count, in the order of these counts.
    """

    address: NodeAddress
    sent: int
    answered: int
    draining: deque[tuple[int, SlotGate]]

    @property
    def is_open(self) -> bool:
        """Whether commands can be sent now."""
        ...

    @property
    def is_full(self) -> bool:
        """Whether too many commands wait for replies."""
        ...

    def in_flight(self) -> Iterable[Command]:
        """Return the commands without a reply, oldest first."""
        ...

    def send(self, command: Command, *, asking: bool = False) -> None:
        """Send a command; with ``asking``, ASKING before it in the same write."""
        ...

    def load(self, script: Script) -> None:
        """Send SCRIPT LOAD, unless it is in flight already."""
        ...

    def renew(self) -> None:
        """Open a new connection to the same address once all replies are there. Not open until then."""
        ...


class Owners(Protocol):
    """The nodes of the cluster as the gates see them."""

    def owner_of(self, slot: int) -> Outlet | None:
        """Return the owner of a slot; ``None`` if no node is known to own it."""
        ...

    def node_at(self, address: NodeAddress) -> Outlet:
        """Return the node with this address; it is connected on first use."""
        ...

    def move(self, slot: int, address: NodeAddress) -> None:
        """Record the new owner of a slot."""
        ...

    def refresh(self) -> None:
        """Ask for the slot map soon."""
        ...

    def pump_soon(self) -> None:
        """Call ``SlotGates.pump_more`` in the next iteration of the event loop."""
        ...


class _Mode(Enum):
    PIPELINE = auto()  # send everything
    PROBE = auto()  # send one command; when it succeeds, everything
    SERIAL = auto()  # send one command at a time, until ``serial_until``


class SlotGate:
    """The commands of one slot that wait. See the module."""

    __slots__ = ("barrier", "bound_node", "busy", "mode", "node", "not_before", "serial_until", "slot", "waiting")

    def __init__(self, slot: int, bound_node: NodeAddress | None) -> None:
        self.slot = slot
        self.bound_node = bound_node  # these commands count against ``MAX_WAITING_BYTES`` of this node
        self.waiting: deque[Command] = deque()  # in the order of their calls
        # Has commands of this slot in flight until it has answered ``barrier`` commands.
        self.node: Outlet | None = None
        self.barrier = 0
        self.busy: Command | None = None  # the only command in flight, if ``mode`` is not PIPELINE
        self.mode = _Mode.PIPELINE
        self.serial_until = 0.0
        self.not_before = 0.0

    @property
    def is_draining(self) -> bool:
        """Whether commands of this slot are in flight that were sent before the gate closed."""
        return self.node is not None and self.node.answered < self.barrier


class SlotGates:
    """The gates of all slots, and the decisions about every answer that is not a plain value."""

    def __init__(self, owners: Owners, max_wait_s: float, on_closed: Callable[[], None] = lambda: None) -> None:
        """``on_closed`` is called when the first gate closes: from then on ``sweep`` must be called regularly."""
        self._owners = owners
        self._max_wait_s = max_wait_s
        self._on_closed = on_closed
        self._gates: dict[int, SlotGate] = {}
        self._waiting_bytes: dict[NodeAddress | None, int] = {}
        self._issued = 0
        # Turns as in ``cooperative.Pacer``, without the event loop: ``Owners.pump_soon`` requests the next one.
        self._left = CALLERS_A_TURN  # waiting commands that may still be sent in this iteration of the event loop
        self._to_pump: deque[SlotGate] = deque()
        self._has_next_turn = False
        self.reason = "the cluster is not reachable"
        """Why commands wait; part of the error of those that waited too long."""

    def __bool__(self) -> bool:
        """Return whether any slot has a gate."""
        return bool(self._gates)

    @property
    def waiting(self) -> int:
        """The number of commands that wait."""
        return sum(len(gate.waiting) for gate in self._gates.values())

    # ---- events

    def issue(self, command: Command, now: float) -> None:
        """Send a new command, or let it wait behind the commands of its slot that wait."""
        self._issued += 1
        command.number = self._issued
        gate = self._gates.get(command.slot)
        if gate is None:
            node = self._owners.owner_of(command.slot)
            if node is not None and node.is_open:
                if node.is_full:
                    command.give_up(f"the connection to {node.address} is overloaded: too many commands wait")
                else:
                    node.send(command)
                return
            # A connection that is being renewed still has commands in flight, perhaps of this slot.
            gate = self._close(command.slot, node)
            self._owners.refresh()
        if self._waiting_bytes.get(gate.bound_node, 0) > MAX_WAITING_BYTES:
            command.give_up(f"too many commands wait for slot {gate.slot}: {self.reason}")
            return
        self._put(gate, command)
        self._to_pump.append(gate)
        self._pump_turn(now)

    def answered(self, node: Outlet, command: Command, reply: Any, now: float) -> None:
        """Handle a reply that may be a refusal, or that may belong to a slot with a gate.

        The caller must call ``progressed`` afterwards: it sends the commands that waited for this reply.
        """
        decision = decide(reply, node.address)
        if decision.refresh:
            self._owners.refresh()
        gate = self._gates.get(command.slot)
        if decision.action is Action.RETURN or not _may_repeat(command, decision):
            self._finish(gate, command, reply)
        else:
            gate = gate or self._close(command.slot, node)
            self._refuse(gate, node, command, decision, now)
        if gate is not None:
            self._to_pump.append(gate)

    def progressed(self, node: Outlet, now: float) -> None:
        """Send what waited for the replies of a node, after some have arrived."""
        draining = node.draining
        while draining and draining[0][0] <= node.answered:
            _, gate = draining.popleft()
            if gate.node is node:
                self._to_pump.append(gate)
        self._pump_turn(now)

    def lost(
        self, node: Outlet, written: Sequence[Command], unwritten: Sequence[Command], reason: str, now: float
    ) -> list[Command]:
        """Handle a lost connection: repeat what can be repeated, and keep what was not written.

        Returns the other commands. The caller must finish them with ``RedisConnectionLost``. ``reason`` names the node.
        """
        self._owners.refresh()
        self.reason = reason
        for command in written:
            # It may have been executed, so one that was refused before it is too late.
            self._fail_overtaken(self._gates.get(command.slot), command)
        failed = [command for command in written if not self._repeat_lost(command, now)]
        for command in unwritten:
            self._return_unwritten(command, reason)
        node.draining.clear()
        for gate in self._gates.values():
            if gate.node is node:
                gate.node = None
        self.pump_all(now)
        return failed

    def moved(self, slots: set[int], nodes: Iterable[Outlet], now: float) -> None:
        """Handle a new slot map. ``slots`` have new owners; their commands in flight come before later ones."""
        for node in nodes:
            for command in node.in_flight():
                if command.slot in slots and command.slot not in self._gates:
                    self._close(command.slot, node)
        self.pump_all(now)

    def pump_all(self, now: float) -> None:
        """Send the waiting commands that can be sent: a node is connected, or a slot has another owner.

        One iteration of the event loop sends ``CALLERS_A_TURN`` of them, and requests the next (``Owners.pump_soon``).
        Otherwise a promoted replica would answer all of them at once, and other users would wait for all these callers.
        """
        self._to_pump = deque(self._gates.values())
        self._pump_turn(now)

    def pump_more(self, now: float) -> None:
        """Continue with the waiting commands in the next iteration of the event loop."""
        self._left, self._has_next_turn = CALLERS_A_TURN, False
        self._pump_turn(now)

    def _pump_turn(self, now: float) -> None:
        while self._to_pump and self._left:
            gate = self._to_pump.popleft()
            if self._gates.get(gate.slot) is gate:
                self._pump(gate, now)
        if (self._to_pump or self._left < CALLERS_A_TURN) and not self._has_next_turn:
            self._has_next_turn = True
            self._owners.pump_soon()

    def sweep(self, now: float) -> None:
        """Fail the commands that have waited too long, and repeat those whose delay is over."""
        for gate in list(self._gates.values()):
            while gate.waiting and (gate.waiting[0].deadline <= now or gate.waiting[0].is_done()):
                self._take(gate).give_up(f"slot {gate.slot} was not served in time: {self.reason}")
        self.pump_all(now)

    def fail_all(self, reason: str) -> None:
        """Fail every command that waits: the client is closed."""
        gates, self._gates = self._gates, {}
        self._waiting_bytes.clear()
        for gate in gates.values():
            for command in gate.waiting:
                command.give_up(reason)

    # ---- after an answer

    def _finish(self, gate: SlotGate | None, command: Command, reply: Any) -> None:
        command.finish(reply)
        if gate is None:
            return
        if gate.busy is command:
            gate.busy = None
            if gate.mode is _Mode.PROBE:
                gate.mode = _Mode.PIPELINE
        self._fail_overtaken(gate, command)

    def _refuse(self, gate: SlotGate, node: Outlet, command: Command, decision: Decision, now: float) -> None:
        """Keep a refused command, and set how and when its slot continues."""
        retry = command.retry_state()
        match decision.action:
            case Action.FOLLOW | Action.ASK:
                self._redirect(gate, node, command, decision, now)
            case Action.TRY_AGAIN:
                retry.trying_since = retry.trying_since if retry.trying_since is not None else now
                command.deadline = min(command.deadline, retry.trying_since + TRY_AGAIN_S)
                gate.mode, gate.serial_until = _Mode.SERIAL, now + SERIAL_S
                gate.not_before = now + TRY_AGAIN_DELAY_S
                self.reason = "its keys are on two nodes while it moves (TRYAGAIN)"
            case Action.WAIT:
                gate.mode, gate.not_before = _Mode.PROBE, now + WAIT_DELAY_S
                self.reason = f"{node.address[0]}:{node.address[1]} cannot serve it now"
            case Action.LOAD:
                retry.needs_load = retry.was_loaded = True
        self._put_back(gate, command)

    def _redirect(self, gate: SlotGate, node: Outlet, command: Command, decision: Decision, now: float) -> None:
        retry, address = command.retry_state(), decision.address or node.address
        retry.redirects += 1
        too_many = retry.redirects > MAX_REDIRECTS
        if decision.action is Action.ASK:
            gate.mode, gate.serial_until = _Mode.SERIAL, now + SERIAL_S
            retry.ask = None if too_many else address
        else:
            gate.mode = _Mode.PROBE if too_many else _Mode.PIPELINE
            owner = self._owners.owner_of(command.slot)
            if owner is None or owner.address != address:
                self._owners.move(command.slot, address)
            elif owner is node and node.is_open:
                node.renew()
        if too_many:
            gate.not_before = now + REDIRECT_DELAY_S
            self.reason = f"its nodes redirect in a circle, last to {address[0]}:{address[1]}"

    def _repeat_lost(self, command: Command, now: float) -> bool:
        """Repeat a command whose reply was lost if that is harmless, once. Returns false if it must fail as unknown."""
        if command.is_repeatable and not command.is_done() and not command.retry_state().was_lost:
            command.retry_state().was_lost = True
            command.deadline = now + self._max_wait_s
            self._hold(command)
            return True
        gate = self._gates.get(command.slot)
        if gate is not None and gate.busy is command:
            gate.busy = None
        return False

    def _return_unwritten(self, command: Command, reason: str) -> None:
        """Keep a command that was not written for another connection, unless it has no other or was cancelled."""
        if command.slot < 0:
            command.give_up(reason)
        elif not command.is_done():
            self._hold(command)
        elif (gate := self._gates.get(command.slot)) is not None and gate.busy is command:
            gate.busy = None

    def _hold(self, command: Command) -> None:
        self._put_back(self._gates.get(command.slot) or self._close(command.slot, None), command)

    def _fail_overtaken(self, gate: SlotGate | None, executed: Command) -> None:
        """Fail the waiting commands that were called before an executed one. Missing scripts are excepted."""
        if gate is None or not gate.waiting or gate.waiting[0].number > executed.number:
            return
        for command in [self._take(gate) for _ in range(len(gate.waiting))]:
            if command.number < executed.number and not command.retry_state().needs_load:
                command.give_up(f"slot {gate.slot} moves, and a later command was executed first")
            else:
                self._put(gate, command)

    # ---- sending

    def _pump(self, gate: SlotGate, now: float) -> None:
        """Send the waiting commands of a slot as far as its mode allows, and open the gate when none is left.

        One iteration sends a few commands. The replies to these lead to the next call, which sends the rest.
        """
        if gate.is_draining:
            return
        gate.node = None
        while gate.busy is None and self._left:
            if not gate.waiting:
                if gate.mode is not _Mode.SERIAL or now >= gate.serial_until:
                    self._gates.pop(gate.slot, None)
                return
            command = gate.waiting[0]
            if command.deadline <= now or command.is_done():
                self._take(gate).give_up(f"slot {gate.slot} was not served in time: {self.reason}")
                continue
            if now < gate.not_before:
                return
            if gate.mode is _Mode.SERIAL and now >= gate.serial_until:
                gate.mode = _Mode.PIPELINE
            if not self._send(gate, command):
                break
        if gate.is_draining and gate.node is not None:
            # Some were sent, and the next one must not be sent elsewhere before they are answered.
            gate.node.draining.append((gate.barrier, gate))

    def _send(self, gate: SlotGate, command: Command) -> bool:
        """Send the first command of a gate. Return whether it could be sent now."""
        retry = command.retry
        ask = retry.ask if retry is not None else None
        node = self._owners.owner_of(gate.slot) if ask is None else self._owners.node_at(ask)
        is_alone = ask is not None or gate.mode is not _Mode.PIPELINE
        if node is None or not node.is_open or node.is_full:
            return False
        if gate.node is not None and (is_alone or gate.node is not node):
            return False  # others were sent just now; they must be answered first
        self._take(gate)
        if retry is not None:
            retry.ask = None
            if retry.needs_load and command.script is not None:
                node.load(command.script)
                retry.needs_load = False
        node.send(command, asking=ask is not None)
        self._left -= 1
        if is_alone:
            gate.busy = command
        else:
            gate.node, gate.barrier = node, node.sent
        return True

    # ---- the gates themselves

    def _close(self, slot: int, node: Outlet | None) -> SlotGate:
        """Close the gate of a slot. ``node`` may have commands of the slot in flight."""
        owner = self._owners.owner_of(slot)
        gate = SlotGate(slot, owner.address if owner is not None else None)
        if not self._gates:
            self._on_closed()
        self._gates[slot] = gate
        if node is not None and node.answered < node.sent:
            gate.node, gate.barrier = node, node.sent
            node.draining.append((node.sent, gate))
        return gate

    def _put_back(self, gate: SlotGate, command: Command) -> None:
        """Put a command that was sent before those of its slot that were called later."""
        if gate.busy is command:
            gate.busy = None
        waiting = gate.waiting
        place = len(waiting)
        while place and waiting[place - 1].number > command.number:
            place -= 1
        self._put(gate, command, place)

    def _put(self, gate: SlotGate, command: Command, place: int | None = None) -> None:
        self._waiting_bytes[gate.bound_node] = (
            self._waiting_bytes.get(gate.bound_node, 0) + len(command.packed) + _COMMAND_BYTES
        )
        if place is None:
            gate.waiting.append(command)
        else:
            gate.waiting.insert(place, command)

    def _take(self, gate: SlotGate) -> Command:
        command = gate.waiting.popleft()
        self._waiting_bytes[gate.bound_node] -= len(command.packed) + _COMMAND_BYTES
        return command


def _may_repeat(command: Command, decision: Decision) -> bool:
    """Return whether a refused command is worth another attempt."""
    if decision.action is Action.LOAD:
        return command.script is not None and not (command.retry is not None and command.retry.was_loaded)
    return command.slot >= 0
