"""A simulated cluster that records a history: the reference store, gateways, devices and a virtual clock.

A million operations take minutes instead of hours. A ``Mutant`` changes one step, as a defect of the product would.
"""

from __future__ import annotations

import copy
import random
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from gregor.core.errors import Problem
from gregor.core.items.announcement import Announcement, AnnouncementKind, decode_announcement
from gregor.core.items.sync import Cursor, View, cursor_for, parse_cursor
from gregor.core.limits import Limits
from gregor.core.messages.encode import encode_history, encode_receipt, encode_state, encode_sync
from gregor.core.messages.model import Commit, Receipt, Sender
from gregor.core.messages.parse import parse_message
from gregor.core.messages.plan import plan
from gregor.history.format import Outcome
from gregor.history.recorder import HistoryRecorder
from gregor.reference import agenda
from gregor.reference.store import MemoryStore

NOW_US = 1_700_000_000_000_000
LIMITS = Limits()
CATEGORIES = ("mail", "mail.spam", "user.joined", "invoice")
DEVICES: tuple[tuple[str, tuple[str, ...] | None], ...] = (("phone", None), ("laptop", None), ("watch", ("mail",)))
STEP_US = 20_000
"""Mean time between two operations of one user."""
CATCHES_UP_US = 5_000_000
"""Time after which a slow device has received its queue."""
KNOWN = 40
"""The number of ids and messages of a user that later messages can refer to."""
Document = dict[str, Any]


@dataclass
class SimulatedDevice:
    """A device of a user: its connection, and the position of its copy."""

    uid: str
    name: str
    categories: tuple[str, ...] | None
    conn: str | None = None
    last_conn: str | None = None
    cursor: Cursor | None = None
    is_stale: bool = False
    """Whether frames were dropped (a slow consumer): the next thing it gets is a sync object."""

    @property
    def view(self) -> View:
        return View(self.name, self.categories)


@dataclass
class SimulatedUser:
    """What the writers of a user remember."""

    uid: str
    devices: list[SimulatedDevice]
    items: deque[str] = field(default_factory=lambda: deque(maxlen=KNOWN))
    sent: deque[tuple[Sender, Document]] = field(default_factory=lambda: deque(maxlen=KNOWN))


class Mutant:
    """One defect; the base class has none. ``rate``: how often it strikes when it could. ``hits``: how often it did.

    Failovers: ``is_replicated``: receipts promise replication. ``keeps_cursors``: devices keep their copies over the
    fork. ``is_silent``: no device is corrected. ``is_older``: the lost messages are older than the window says.
    """

    rate = 0.3
    is_replicated = False
    keeps_cursors = False
    is_silent = False
    is_older = False

    def __init__(self) -> None:
        self.hits = 0
        self.simulation: Simulation

    def strikes(self) -> bool:
        """Return whether the defect happens now."""
        if self.simulation.dice.random() >= self.rate:
            return False
        self.hits += 1
        return True

    async def commit(self, uid: str, commit: Commit) -> Receipt:
        """Commit a message in the store."""
        return await self.simulation.store.users.commit(uid, commit)

    def announce(self, uid: str, payload: bytes) -> None:
        """Publish an announcement to the gateway."""
        self.simulation.gateway(uid, payload)

    def deliver(self, device: SimulatedDevice, frame: bytes, announcement: Announcement) -> None:
        """Send a live frame to a device."""
        self.simulation.to_device(device, frame, announcement)

    def sync(self, device: SimulatedDevice, answer: bytes) -> bytes:
        """Return the sync object that the device gets."""
        return answer

    def receipt(self, uid: str, receipt: Receipt) -> Receipt:
        """Return the receipt that the sender gets."""
        return receipt

    def state(self, uid: str, answer: bytes) -> bytes:
        """Return the state that a reader gets."""
        return answer

    def fire_at_us(self, due_us: int) -> int:
        """Return when the scheduler does due work."""
        return due_us


class Simulation:
    """Users, their devices and writers. ``run`` records the history."""

    def __init__(self, path: Path, seed: int, users: int, mutant: Mutant | None = None, *, failovers: int = 0) -> None:
        self.dice = random.Random(seed)
        self.mutant = mutant or Mutant()
        self.mutant.simulation = self
        self.now_us = NOW_US
        self.at_ns = 0
        self.store = MemoryStore(LIMITS, self, namespace="s")
        self.recorder = HistoryRecorder(path, clock_ns=lambda: self.at_ns, wall_us=lambda: NOW_US)
        self.users = [
            SimulatedUser(f"u{n}", [SimulatedDevice(f"u{n}", name, categories) for name, categories in DEVICES])
            for n in range(users)
        ]
        self.by_uid = {user.uid: user for user in self.users}
        self._ids = 0
        self._conns = 0
        self._backup: Any = None
        self._failovers = failovers
        self._is_refused = False
        self._behind: deque[tuple[int, SimulatedDevice]] = deque()

    # ---- the run

    async def run(self, operations: int) -> None:
        """Do about so many operations, then let everything settle and read everything."""
        actions = (self.send, self.send, self.send, self.send, self.send, self.connect, self.disconnect, self.read)
        failing = {round(operations * (n + 0.7) / self._failovers) for n in range(self._failovers)}
        backing = {place - max(2, min(40, operations // 20)) for place in failing}
        for number in range(operations):
            self.tick(self.dice.expovariate(len(self.users) / STEP_US))
            if number in backing:
                self._backup = copy.deepcopy(self.store._data.users)
            if number in failing:
                await self.fail_over()
            while self._behind and self._behind[0][0] <= self.now_us:
                await self.catch_up(self._behind.popleft()[1])
            user = self.dice.choice(self.users)
            await self.due(user.uid)
            await self.dice.choice(actions)(user)
        await self.settle()
        self.recorder.close()

    def tick(self, us: float) -> None:
        """Let time pass."""
        self.now_us += max(1, round(us))
        self.at_ns = (self.now_us - NOW_US) * 1_000

    async def settle(self) -> None:
        """Let every device catch up, let two minutes pass, and read every user."""
        for user in self.users:
            for device in user.devices:
                await self.catch_up(device)
        self.tick(120e6)
        for user in self.users:
            await self.due(user.uid)
            await self.read(user)
            self.at_ns += 1_000
            entries = await self.store.users.history(user.uid, View(), None, 1 << 30, self.now_us)
            at = self.at_ns
            self.at_ns += 1_000
            self.recorder.read(user.uid, "history", at, "ok", encode_history(entries))

    # ---- senders

    async def send(self, user: SimulatedUser) -> None:
        """Send a message, sometimes an old one again, sometimes with an unknown outcome."""
        sender, document = self._message(user)
        outcome = self.dice.random()
        began_ns = self.at_ns
        self.tick(self.dice.random() * 3_000)
        receipt: bytes | None = None
        result: Outcome = "ok"
        try:
            message = parse_message(document, LIMITS)
            commit = plan(message, sender, self.now_us, b"%03d" % self.dice.randrange(1000), LIMITS)
            if outcome > 0.99:
                result = "refused"
            elif outcome > 0.98:
                result = "unknown"
            else:
                answer = self.mutant.receipt(user.uid, await self.mutant.commit(user.uid, commit))
                if self._is_refused:
                    result, self._is_refused = "refused", False
                elif outcome > 0.95:
                    result = "unknown"
                else:
                    view = View(sender.device, sender.category_filter)
                    receipt = encode_receipt(answer, view, document["system"] != "gregor")
                    if self.mutant.is_replicated:
                        receipt = receipt[:-1] + b',"durability":"replicated"}'
        except Problem:
            result = "refused"
        self.tick(self.dice.random() * 3_000)
        self.recorder.send(
            user.uid,
            document,
            began_ns,
            result,
            receipt,
            device=sender.device or None,
        )
        if result != "refused":
            user.sent.append((sender, document))
            user.items.extend(document["body"].get("create", ()) if document["system"] == "gregor" else ())

    def refuse(self) -> None:
        """Make ingest refuse the message that it has just committed."""
        self._is_refused = True

    def _message(self, user: SimulatedUser) -> tuple[Sender, Document]:
        dice = self.dice
        kind = dice.random()
        if kind < 0.08 and user.sent:
            return dice.choice(user.sent)
        sender = Sender(dice.choice(DEVICES)[0]) if dice.random() < 0.3 else Sender()
        self._ids += 1
        name = f"m{self._ids}"
        if kind < 0.55 or not user.items:
            return sender, {"system": "gregor", "body": {"create": self._items(sender)}}
        if kind < 0.85:
            known = dice.sample(list(user.items), min(len(user.items), dice.choice((1, 1, 1, 2, 3))))
            unknown = [f"n{self._ids}"] if dice.random() < 0.05 else []
            return sender, {"system": "gregor", "body": {"dismiss": {"ids": list(dict.fromkeys(known + unknown))}}}
        if kind < 0.9:
            return sender, {"system": "gregor", "id": name, "body": {"dismiss": {"intervals": [self._interval()]}}}
        if kind < 0.93:
            body = {"create": self._items(sender), "dismiss": {"intervals": [{"category": dice.choice(CATEGORIES)}]}}
            return sender, {"system": "gregor", "id": name, "body": body}
        if kind < 0.995:
            return sender, {"system": "kbfs.favorites", "id": name, "body": {"n": self._ids}}
        return Sender(), {"system": "gregor", "id": name, "body": {"flush": True}}

    def _items(self, sender: Sender) -> Document:
        made: Document = {}
        for _ in range(self.dice.choice((1, 1, 1, 1, 2, 3))):
            self._ids += 1
            item: Document = {"category": self.dice.choice(CATEGORIES), "body": {"n": self._ids}}
            kind = self.dice.random()
            times: Document = {}
            if kind < 0.1:
                times["created"] = (self.now_us - self.dice.randrange(5_000_000)) / 1e6
            if 0.05 < kind < 0.2:
                times["expires"] = f"+{self.dice.randrange(1, 30)}s"
            if 0.15 < kind < 0.25:
                times["remind_at"] = [f"+{self.dice.randrange(1, 20)}s"]
            if times:
                item["times"] = times
            if self.dice.random() < 0.2:
                item["for_device"] = self.dice.choice(("*", "*", sender.device or "phone"))
            made[f"i{self._ids}"] = item
        return made

    def _interval(self) -> Document:
        interval: Document = {"category": self.dice.choice(CATEGORIES)}
        if self.dice.random() < 0.7:
            interval["end"] = (self.now_us - self.dice.randrange(3_000_000)) / 1e6
        return interval

    # ---- the scheduler

    async def due(self, uid: str) -> None:
        """Do the due work of a user: expiry and reminders."""
        user = self.store._data.users.get(uid)
        if user is None:
            return
        for name, at_us in sorted(user.agenda.items(), key=lambda entry: entry[1]):
            record = user.live.get(name[1:])
            if name[0] == agenda.REMIND and record is not None and self.mutant.fire_at_us(at_us) <= self.now_us:
                index = record.item.remind_at_us.index(at_us)
                await self.store.users.commit(uid, Commit(self.now_us, b"abc", remind=(name[1:], index)))
        if any(record.item.expires_us is not None for record in user.live.values()):
            await self.store.users.commit_due(uid, self.now_us)

    # ---- the feed and the gateway

    def publish(self, channel: bytes | str, payload: bytes, *, sharded: bool = True) -> None:
        """Pass an announcement of the store on."""
        uid = str(channel).rpartition(":")[2]
        if payload[:1] == b"C":
            self.mutant.announce(uid, payload)

    def gateway(self, uid: str, payload: bytes) -> None:
        """Send the frame of an announcement to each connection of the user."""
        announcement = decode_announcement(payload)
        for device in self.by_uid[uid].devices:
            if device.conn is None:
                continue
            frame = announcement.frame(device.view)
            if frame is None and announcement.sender == device.name:
                frame = announcement.empty_frame(device.view)
            if frame is not None:
                self.mutant.deliver(device, frame, announcement)

    def to_device(self, device: SimulatedDevice, frame: bytes, announcement: Announcement) -> None:
        """Record a live frame, unless the queue of the device is full."""
        if self.mutant.is_silent and device.cursor is not None and announcement.seq <= device.cursor.seq:
            return
        if device.is_stale or self.dice.random() < 0.01:
            self.fall_behind(device)
            return
        if announcement.kind is AnnouncementKind.RESET:
            self.fall_behind(device)
        self.frame(device, frame)
        device.cursor = cursor_for(announcement.epoch, device.view, announcement.seq)

    def fall_behind(self, device: SimulatedDevice) -> None:
        """Drop the frames of a slow device, until it has received its queue."""
        if not device.is_stale:
            self._behind.append((self.now_us + CATCHES_UP_US, device))
        device.is_stale = True

    async def catch_up(self, device: SimulatedDevice) -> None:
        """Send a sync object to a device that was slow, if it is still connected and behind."""
        if device.conn is not None and device.is_stale:
            await self.resync(device)

    def frame(self, device: SimulatedDevice, frame: bytes) -> None:
        """Record a frame."""
        self.recorder.frame(device.uid, device.conn or "", frame)

    async def resync(self, device: SimulatedDevice) -> None:
        """Send a sync object for the position of the device."""
        answer = await self.store.users.sync(device.uid, device.view, device.cursor, None, self.now_us)
        raw = self.mutant.sync(device, encode_sync(answer, device.view))
        self.frame(device, raw)
        device.is_stale = False
        device.cursor = parse_cursor(msgspec.json.decode(raw)["cursor"])

    async def connect(self, user: SimulatedUser) -> None:
        """Connect a device, or repair one that is behind."""
        device = self.dice.choice(user.devices)
        if device.conn is not None:
            await self.catch_up(device)
            return
        self._conns += 1
        device.conn, device.is_stale = f"c{self._conns}", True
        if self.dice.random() < 0.1:
            device.cursor, device.last_conn = None, None
        self.recorder.connect(
            user.uid,
            device.conn,
            device=device.name,
            categories=device.categories,
            resumes=device.last_conn,
            cursor=None if device.cursor is None else str(device.cursor),
        )
        self.tick(500)
        await self.resync(device)

    async def disconnect(self, user: SimulatedUser) -> None:
        """Close one connection, sometimes."""
        device = self.dice.choice(user.devices)
        if device.conn is not None and self.dice.random() < 0.3:
            self.recorder.close_connection(user.uid, device.conn, 1001)
            device.conn, device.last_conn, device.is_stale = None, device.conn, False

    async def read(self, user: SimulatedUser) -> None:
        """Read the state over HTTP, of the backend's view or a device's."""
        view = self.dice.choice((View(), View(), View("phone"), View("", ("mail",))))
        at = self.at_ns
        self.tick(300)
        full = await self.store.users.state(user.uid, view, self.now_us)
        answer = self.mutant.state(user.uid, encode_state(full, view, 0))
        self.tick(300)
        self.recorder.read(
            user.uid, "state", at, "ok", answer, device=view.device or None, categories=view.category_filter
        )

    # ---- failures

    async def fail_over(self) -> None:
        """Go back to the backup, as a replica that lagged behind does; the devices get full copies."""
        began = self.at_ns
        self.store._data.users = self._backup
        self.tick(1e6)
        self.recorder.fault("failover", began, "primary", window_s=0 if self.mutant.is_older else 1)
        self.mutant.hits += 1
        if self.mutant.is_silent:
            return
        devices = [device for user in self.users for device in user.devices]
        if self.mutant.keeps_cursors:
            for device in devices:
                if device.conn is not None and device.cursor is not None:
                    seq = self.store._data.users[device.uid].seq
                    device.cursor = Cursor(device.cursor.tag, min(device.cursor.seq, seq))
                    await self.resync(device)
            return
        for device in devices:
            device.cursor, device.last_conn, device.is_stale = None, None, device.conn is not None
        for device in devices:
            if device.conn is not None:
                await self.resync(device)
