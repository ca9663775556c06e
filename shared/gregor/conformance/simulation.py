"""The simulation: a server, and a lossy network between it and the client under test.

The seed determines a run. The server is the executable specification. The network drops, repeats and reorders frames,
and cuts connections. Users are reset, the server loses acknowledged writes in a failover, and the client restarts from
its snapshot. At the end, copy and badge must be equal to those of the server's view, and the outbox must be empty.
"""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Coroutine
from typing import Any, TypeVar

from gregor.core.errors import Problem
from gregor.core.items.announcement import decode_announcement
from gregor.core.items.digest import parse_digest
from gregor.core.items.sync import Full, View, parse_cursor
from gregor.core.json_text import decode_json, decode_published
from gregor.core.limits import Limits
from gregor.core.messages.encode import encode_receipt, encode_state, encode_sync
from gregor.core.messages.model import Sender
from gregor.core.messages.parse import parse_message
from gregor.core.messages.plan import plan
from gregor.reference.store import MemoryStore

from .testee import Testee

BEGIN_US = 1_700_000_000_000_000
LIMITS = Limits()
UID = "u"
VIEW = View("phone")
UNCOUNTED = ("quiet",)
CATEGORIES = ("mail", "mail.spam", "quiet", "user.joined")
CHECK_US = 301_000_000
"""A little more than the interval at which a client compares its digest (300 s)."""
# Item ids that a client in JavaScript may confuse: names of built-in properties, and integers, which objects sort.
IDS = ("constructor", "toString", "hasOwnProperty", "10", "9", "2")
BODIES: tuple[Any, ...] = (
    None,
    {"n": 0.1, "z": -0.0, "big": 1e21, "small": 5e-324},
    {"__proto__": {"a": 1}, "constructor": [], "10": 1, "9": 2},
    ["\U0001f600", "é", "\u2028", "\uffff", ""],
    {"\U0001f600": 1, "\uffff": 2, "": 3},
    {"whole": 9007199254740991, "exponent": 1e15},
)
T = TypeVar("T")


class Divergence(Exception):
    """The client differs from the server at the end, or has sent a frame that the server refuses."""


class SimulatedServer:
    """The store, and at most one connection of the client. Frames to the client are collected in `out`."""

    def __init__(self, dice: random.Random) -> None:
        self.dice = dice
        self.now_us = BEGIN_US
        self.store = MemoryStore(LIMITS, self, namespace="c")
        self.is_joined = False
        self.out: list[str] = []
        self.externals: dict[str, int] = {}
        """The number of commits of each external message of the client, by `body.n`."""
        self._resynced_us = 0

    def publish(self, channel: bytes | str, payload: bytes, *, sharded: bool = True) -> None:
        """Receive an announcement of the store, as a gateway does."""
        if payload[:1] != b"C":
            return
        announcement = decode_announcement(payload)
        frame = announcement.frame(VIEW)
        if frame is None and announcement.sender == VIEW.device:
            frame = announcement.empty_frame(VIEW)
        if frame is not None and self.is_joined:
            self.out.append(frame.decode())

    def receive(self, text: str) -> None:
        """Process a frame of the client. Raises Divergence if the gateway would refuse it."""
        frame = decode_json(text.encode(), LIMITS)
        if "hello" in frame:
            self.is_joined = False
            self.out.append(json.dumps({"welcome": {"expires_in": 3600, "ping": 25, "uncounted": UNCOUNTED}}))
            self._sync(frame["hello"])
            # No live frame precedes the sync object, not even that of an item which expires during the read.
            self.is_joined = True
        elif not self.is_joined:
            return  # the connection ended meanwhile
        elif "resync" in frame:
            self._resync(frame["resync"])
        elif "system" in frame:
            ref = frame.pop("ref", None)
            self.out.append(json.dumps({"ref": ref, **self.commit(frame, VIEW.device)}))
        elif not frame.keys() & {"ack", "foreground", "pong", "ping"}:
            raise Divergence(f"the client sent a frame that the gateway refuses: {text[:200]}")

    def commit(self, message: dict[str, Any], device: str = "") -> dict[str, Any]:
        """Commit a message of a backend or a device. Returns the members of the answer.

        Raises Divergence if the message is invalid.
        """
        self.now_us += 1
        sender = Sender(device)
        try:
            commit = plan(parse_message(message, LIMITS), sender, self.now_us, self.dice.randbytes(3), LIMITS)
            receipt = _now(self.store.users.commit(UID, commit))
        except Problem as problem:
            if problem.code in ("invalid", "unknown_field", "missing_field", "id_reused"):
                raise Divergence(f"the server refuses a message of the client: {problem}: {message}") from None
            return {"problem": {"code": problem.code, "status": problem.status, "detail": str(problem)}}
        if message["system"] != "gregor" and not receipt.is_unchanged and device:
            number = str(message["body"]["n"])
            self.externals[number] = self.externals.get(number, 0) + 1
        view = View(device)
        return {"receipt": json.loads(encode_receipt(receipt, view, message["system"] != "gregor"))}

    def state(self) -> dict[str, Any]:
        """Return the view of the client."""
        full = _now(self.store.users.state(UID, VIEW, self.now_us))
        document: dict[str, Any] = decode_published(encode_state(full, VIEW, 0))
        return document

    def fork(self, backup: Any) -> None:
        """Lose the writes since the backup, as in a failover to a replica that was behind."""
        self.store._data.users = backup
        if self.is_joined:
            full: Full = _now(self.store.users.state(UID, VIEW, self.now_us))
            self.out.append(encode_sync(full, VIEW).decode())

    def _sync(self, position: dict[str, Any]) -> None:
        cursor = parse_cursor(position.get("cursor", ""))
        digest = parse_digest(position.get("digest", ""))
        answer = _now(self.store.users.sync(UID, VIEW, cursor, digest, self.now_us))
        self.out.append(encode_sync(answer, VIEW).decode())

    def _resync(self, position: Any) -> None:
        if self.now_us - self._resynced_us < 1_000_000:
            self.out.append('{"problem":{"code":"rate_limited","status":429,"retry_after_ms":1000}}')
            return
        self._resynced_us = self.now_us
        self._sync({} if position is True else position)


class Run:
    """One run of the simulation. The seed determines every step."""

    def __init__(self, testee: Testee, seed: int) -> None:
        self.testee = testee
        self.dice = random.Random(seed)
        self.server = SimulatedServer(self.dice)
        self.is_lossy = seed % 2 == 1
        self.has_forked = False
        self.to_server: list[str] = []
        self.uncollected = 0
        """The number of requests whose responses, with frames to the server, are not read yet."""
        self.is_open = False
        self.backup: Any = None
        self.made = 0
        self.sent_externals = 0
        self.names: list[str] = []

    def run(self, steps: int = 40) -> None:
        """Perform random steps, let the network recover, and compare. Raises Divergence or TesteeError."""
        self.ask("start")
        actions = (
            *(self.change,) * 12,
            *(self.dispatch,) * 8,
            *(self.deliver,) * 14,
            *(self.connect,) * 4,
            self.cut,
            self.restart,
            self.pause,
            self.flush,
            self.fail_over,
        )
        for _ in range(steps):
            self.server.now_us += self.dice.randrange(2_000_000)
            self.dice.choice(actions)()
        self.finish()

    # Steps.

    def change(self) -> None:
        """Commit a message of a backend or another device."""
        if self.dice.random() < 0.1:
            self.server.commit({"system": "kbfs", "body": {"n": self.next_name()}})
            return
        self.server.commit(self.message(), self.dice.choice(("", "", "laptop")))

    def dispatch(self) -> None:
        """Let the client send a message."""
        if self.dice.random() < 0.15:
            self.sent_externals += 1
            message = {"system": "kbfs", "body": {"n": self.next_name()}}
        else:
            message = self.message()
        self.request("dispatch", message=message)

    def message(self) -> dict[str, Any]:
        """Return a random message that changes the state."""
        body: dict[str, Any] = {}
        kind = self.dice.random()
        if kind < 0.6:
            body["create"] = {self.next_name(): self.item() for _ in range(self.dice.choice((1, 1, 1, 2, 5)))}
        if kind > 0.5 and self.names:
            known = [name for name in self.names if name not in body.get("create", ())]
            body["dismiss"] = {"ids": self.dice.sample(known, min(len(known), self.dice.randrange(1, 4)))}
        if kind > 0.9 or not body:
            body["dismiss"] = {"intervals": [{"category_prefix": self.dice.choice(("", "mail", "quiet"))}]}
        return {"system": "gregor", "body": body}

    def item(self) -> dict[str, Any]:
        """Return a random item."""
        item: dict[str, Any] = {"category": self.dice.choice(CATEGORIES), "body": self.dice.choice(BODIES)}
        if self.dice.random() < 0.2:
            item["times"] = {"expires": f"+{self.dice.randrange(1, 30)}s"}
        if self.dice.random() < 0.3:
            item["for_device"] = self.dice.choice(("*", "phone", "laptop"))
        return item

    def next_name(self) -> str:
        """Return an id that no item or message had before."""
        self.made += 1
        name = IDS[self.made - 1] if self.made <= len(IDS) and self.dice.random() < 0.5 else f"i{self.made}"
        self.names.append(name)
        return name

    def connect(self) -> None:
        """Open a connection, unless there is one."""
        if not self.is_open:
            self.is_open = True
            self.collect()
            self.to_server = []
            self.request("open")

    def cut(self) -> None:
        """End the connection. The frames in transit are lost."""
        if self.is_open:
            self.is_open = self.server.is_joined = False
            self.ask("close")
            self.to_server, self.server.out = [], []

    def deliver(self) -> None:
        """Deliver some frames in both directions."""
        self.collect()
        going, self.to_server = self.split(self.to_server)
        for text in going:
            self.server.receive(text)
        coming, self.server.out = self.split(self.server.out)
        if coming and self.is_open:
            self.request("receive", frames=coming)
        self.request("tick")

    def split(self, frames: list[str]) -> tuple[list[str], list[str]]:
        """Return the frames that arrive now, after losses, and the frames that remain in transit."""
        number = self.dice.randrange(len(frames) + 1)
        arriving: list[str] = []
        for text in frames[:number]:
            chance = self.dice.random() if self.is_lossy and '"hello"' not in text else 1.0
            # A sync object is never lost alone: without it, the client would wait 5 minutes for its next check.
            if chance < 0.03 and '"sync"' not in text:
                continue
            arriving.append(text)
            if 0.03 <= chance < 0.06:
                arriving.append(text)
            elif 0.06 <= chance < 0.09 and len(arriving) > 1:
                arriving[-2:] = arriving[:-3:-1]
        return arriving, frames[number:]

    def restart(self) -> None:
        """Restart the client from its snapshot."""
        self.cut()
        self.collect()
        self.ask("start", restore=self.testee.ask("snapshot")["snapshot"])

    def pause(self) -> None:
        """Let the time pass after which the client compares its digest."""
        self.server.now_us += CHECK_US
        self.request("tick")

    def flush(self) -> None:
        """Start a new epoch; a full copy follows at once."""
        if self.dice.random() < 0.5:
            self.server.commit({"system": "gregor", "id": self.next_name(), "body": {"flush": True}})
            if self.server.is_joined:
                self.server._sync({})

    def fail_over(self) -> None:
        """Make a backup; if one exists, fail over to it and lose the writes since then."""
        if self.backup is None:
            self.backup = copy.deepcopy(self.server.store._data.users)
        else:
            self.server.fork(self.backup)
            self.has_forked, self.backup = True, None

    # The end.

    def finish(self) -> None:
        """Let the network recover, and compare the copy with the server, first without a new connection."""
        is_lossy, self.is_lossy = self.is_lossy, False
        self.connect()
        self.settle()
        if is_lossy:
            # The client finds lost and reordered frames by its digest.
            self.pause()
            self.settle()
        self.compare("copy")
        self.cut()
        self.connect()
        self.settle()
        self.compare("items")
        state = self.ask("state")
        if state["pending"]:
            raise Divergence(f"{state['pending']} messages are still in the outbox")
        if not is_lossy and not self.has_forked and state.get("mismatches"):
            raise Divergence("a digest differed although the network lost nothing")
        if not self.has_forked:
            repeated = {name: times for name, times in self.server.externals.items() if times != 1}
            lost = self.sent_externals - len(self.server.externals)
            if repeated or lost:
                raise Divergence(f"external messages: {lost} lost, {len(repeated)} committed more than once {repeated}")

    def settle(self) -> None:
        """Deliver everything, and let the time pass that the server asks to wait."""
        for _ in range(6):
            self.deliver_all()
            self.server.now_us += 2_000_000
            _now(self.server.store.users.commit_due(UID, self.server.now_us))
            self.request("tick")
        self.deliver_all()

    def deliver_all(self) -> None:
        """Deliver every frame, and those that follow from them."""
        self.collect()
        while self.to_server or self.server.out:
            going, self.to_server = self.to_server, []
            for text in going:
                self.server.receive(text)
            coming, self.server.out = self.server.out, []
            if coming:
                self.request("receive", frames=coming)
                self.collect()

    def compare(self, member: str) -> None:
        """Compare items, digest, cursor and badge with the server."""
        expected, state = self.server.state(), self.ask("state")
        items = state[member]
        if items != expected["items"]:
            missing = sorted(expected["items"].keys() - items.keys())
            extra = sorted(items.keys() - expected["items"].keys())
            raise Divergence(f"{member} differ: missing {missing}, unexpected {extra}, or other contents")
        if state["digest"] != expected["digest"]:
            raise Divergence("the items are equal, but not their digest")
        badge = sum(item["category"] not in UNCOUNTED for item in items.values())
        if member == "items" and state["badge"] != badge:
            raise Divergence(f"the badge is {state['badge']}, not {badge}")

    # Requests to the client, at the present time.

    def ask(self, do: str, **members: Any) -> dict[str, Any]:
        """Send a request and return its response."""
        self.collect()
        return self.testee.ask(do, now=self.server.now_us / 1_000_000, **members)

    def request(self, do: str, **members: Any) -> None:
        """Send a request whose response has frames to the server; `collect` reads it."""
        self.testee.send(do, now=self.server.now_us / 1_000_000, **members)
        self.uncollected += 1

    def collect(self) -> None:
        """Read the missing responses, and queue their frames to the server."""
        while self.uncollected:
            self.uncollected -= 1
            self.to_server += map(json.dumps, self.testee.response()["send"])


def _now(awaitable: Coroutine[Any, Any, T]) -> T:
    """Return the result of a coroutine that never waits: the memory store does no I/O."""
    try:
        awaitable.send(None)
    except StopIteration as done:
        result: T = done.value
        return result
    raise AssertionError("the memory store waited")
