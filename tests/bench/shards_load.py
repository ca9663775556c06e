"""The load of the shards benchmark: devices with their copies, and one message after the other for each user.

The messages have an open schedule: a request that waits does not delay the next one. Prints ``ready`` when all devices
are connected, and at the end one JSON document. All times are seconds of the monotonic clock of the machine.
"""

from __future__ import annotations

import json
import random
import select
import socket
import sys
import time
from typing import Any, NamedTuple

from gregor.client.mirror import digest_of
from tests.bench.sockets import Frames, address, client_frame, open_device

QUIET_S = 12
"""Time after the last message in which devices may still get frames: gateways compare every few seconds."""
REPEATS = 0.05
"""The share of accepted messages that are sent again: a repeat changes nothing, but waits for the replicas again."""


class Device:
    """One device: its socket, its copy of the items, and whether the gateway closed the connection."""

    def __init__(self, uid: str, name: str, opened: tuple[socket.socket, dict[str, Any]]) -> None:
        self.uid = uid
        self.name = name
        self.socket, sync = opened
        self.items: dict[str, Any] = dict(sync.get("body", {}).get("create", {}))
        self.frames = Frames()

    def read(self, run: ShardsLoad) -> None:
        """Apply the received frames, and note when each item and each reminder came."""
        now, wall = time.monotonic(), time.time()
        for text in self.frames.feed(self.socket.recv(1 << 20)):
            frame = json.loads(text)
            if "ping" in frame:
                self.socket.sendall(client_frame({"pong": frame["ping"]}))
            if frame.get("sync") == "full":
                self.items = {}
            # A full copy without items has no body.
            body = frame.get("body", {})
            created = body.get("create", {})
            self.items.update(created)
            for item_id in body.get("dismiss", {}).get("ids", ()):
                self.items.pop(item_id, None)
            for item_id in created:
                run.seen.setdefault(item_id, now)
            for at in body.get("remind", {}).values():
                run.reminders.append((self.uid, now, wall - at))


class Message(NamedTuple):
    """One message, when it was sent, and whether it asks for replicas."""

    uid: str
    item: str
    document: dict[str, Any]
    sent_s: float
    is_replicated: bool


class Request:
    """One connection to an ingest, and the message that it sends."""

    def __init__(self, place: tuple[str, int]) -> None:
        self.socket = socket.create_connection(place)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.message = Message("", "", {}, 0.0, False)
        self._got = b""

    def answer(self) -> tuple[int, bool, dict[str, Any]] | None:
        """Read available bytes. Returns the status, whether it says when to retry, and the body, if all is there."""
        data = self.socket.recv(1 << 20)
        if not data:
            raise ConnectionError("ingest closed the connection")
        self._got += data
        head, separator, body = self._got.partition(b"\r\n\r\n")
        head = head.lower()
        if not separator or len(body) < int(head.partition(b"content-length:")[2].split(b"\r\n")[0]):
            return None
        self._got = b""
        return int(head.split(b" ", 2)[1]), b"\r\nretry-after:" in head, json.loads(body or b"{}")


class ShardsLoad:
    """The load. ``copies``: by user, the name, the digest and the items of each device.

    ``sent``: (uid, item, sent at, answered at, status, asked for replicas, acknowledged as replicated).

    ``seen``: when the first device got an item. ``reminders``: (uid, received at, seconds late). ``unadvised``: (uid,
    answered at) of the answers with 503 and without ``Retry-After``.
    """

    def __init__(self, job: dict[str, Any]) -> None:
        self.job = job
        self.sent: list[tuple[str, str, float, float, int, bool, bool]] = []
        self.seen: dict[str, float] = {}
        self.reminders: list[tuple[str, float, float]] = []
        self.unadvised: list[tuple[str, float]] = []
        self.closed: list[tuple[str, float]] = []
        self._dice = random.Random(job["name"])
        self._poll = select.epoll()
        self._devices: dict[int, Device] = {}
        self._requests: dict[int, Request] = {}
        self._idle: list[Request] = []
        self._number = 0
        self._unanswered = 0

    def run(self) -> dict[str, Any]:
        """Connect, send for a fixed time, and return what came of it."""
        for number, (uid, name, token) in enumerate(self.job["devices"]):
            device = Device(uid, name, open_device(self.job["gateways"][number % len(self.job["gateways"])], token))
            self._devices[device.socket.fileno()] = device
            self._poll.register(device.socket, select.EPOLLIN)
            if number % 100 == 0:
                self._serve(0)
        print("ready", flush=True)
        began, rate = time.monotonic(), self.job["rate"]
        until = began + self.job["seconds"]
        while (now := time.monotonic()) < until + QUIET_S:
            while now < until and self._number < (now - began) * rate:
                self._send(now)
            self._serve(0.002)
        copies: dict[str, list[tuple[str, str, list[str]]]] = {}
        for device in self._devices.values():
            copies.setdefault(device.uid, []).append((device.name, digest_of(device.items), list(device.items)))
        self._unanswered += sum(each not in self._idle for each in self._requests.values())
        return {
            "sent": self.sent, "seen": self.seen, "reminders": self.reminders, "closed": self.closed,
            "copies": copies, "unanswered": self._unanswered, "unadvised": self.unadvised,
        }  # fmt: skip

    def _send(self, now: float) -> None:
        job, number = self.job, self._number
        self._number += 1
        uid, item = self._dice.choice(job["users"]), f"i{job['name']}.{number}"
        is_replicated = self._dice.random() < job["replicated"]
        times = {"remind_at": ["+2s"]} if number % 20 == 0 else {"expires": "+2h"}
        body = {"create": {item: {"category": "mail", "body": {"n": number}, "times": times}}}
        self._post(uid, item, {"system": "gregor", "body": body}, is_replicated)

    def _post(self, uid: str, item: str, message: dict[str, Any], is_replicated: bool) -> None:
        job, text = self.job, json.dumps(message).encode()
        durability = "Gregor-Durability: replicated\r\n" if is_replicated else ""
        head = (
            f"POST /v1/users/{uid}/messages HTTP/1.1\r\nHost: bench\r\nAuthorization: Bearer {job['key']}\r\n"
            f"{durability}Content-Type: application/json\r\nContent-Length: {len(text)}\r\n\r\n"
        )
        if not self._idle:
            made = Request(address(job["ingests"][len(self._requests) % len(job["ingests"])]))
            self._requests[made.socket.fileno()] = made
            self._poll.register(made.socket, select.EPOLLIN)
            self._idle.append(made)
        chosen = self._idle.pop()
        chosen.message = Message(uid, item, message, time.monotonic(), is_replicated)
        chosen.socket.sendall(head.encode() + text)

    def _serve(self, timeout_s: float) -> None:
        for number, _ in self._poll.poll(timeout_s):
            if number in self._devices:
                self._read(number)
                continue
            request = self._requests[number]
            try:
                answer = request.answer()
            except ConnectionError:
                self._drop(request)
                continue
            if answer is not None:
                self._idle.append(request)
                self._note(request.message, *answer)

    def _drop(self, request: Request) -> None:
        """Forget a closed connection; ingest closes those that are idle for long."""
        self._poll.unregister(request.socket)
        del self._requests[request.socket.fileno()]
        request.socket.close()
        if request in self._idle:
            self._idle.remove(request)
        else:
            self._unanswered += 1

    def _note(self, message: Message, status: int, says_when: bool, receipt: dict[str, Any]) -> None:
        """Note an answer, and sometimes repeat the message."""
        uid, item, document, sent_s, is_replicated = message
        now, is_promised = time.monotonic(), status == 200 and receipt.get("durability") == "replicated"
        self.sent.append((uid, item, sent_s, now, status, is_replicated, is_promised))
        if status == 503 and not says_when:
            self.unadvised.append((uid, now))
        if status == 200 and self._dice.random() < REPEATS:
            self._post(uid, item, document, is_replicated)

    def _read(self, number: int) -> None:
        device = self._devices[number]
        try:
            device.read(self)
        except (ConnectionError, OSError):
            self._poll.unregister(number)
            self.closed.append((device.uid, time.monotonic()))
            device.frames = Frames()


if __name__ == "__main__":
    print(json.dumps(ShardsLoad(json.loads(sys.stdin.readline())).run()))
