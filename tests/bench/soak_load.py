"""The load of the soak benchmark: all devices with their copies, and the backend that writes, in one process."""

from __future__ import annotations

import json
import select
import socket
import sys
import time
from typing import Any

from gregor.client.mirror import digest_of
from tests.bench.ingest_load import Answers, request
from tests.bench.report import percentile
from tests.bench.sockets import Frames, address, body_of, client_frame, open_device

TURN_S = 0.01
"""Interval between two batches."""
DISMISS_EVERY = 4


class Copy:
    """One device: its socket, and its copy of the items."""

    __slots__ = ("frames", "items", "socket", "uid")

    def __init__(self, uid: str, opened: tuple[socket.socket, dict[str, Any]]) -> None:
        self.uid = uid
        self.socket, sync = opened
        self.items: dict[str, Any] = dict(sync.get("body", {}).get("create", {}))
        self.frames = Frames()

    def read(self, latencies: list[float]) -> bool:
        """Apply received frames and note the age of each item since ingest.

        Return whether there was more than a ping.
        """
        now, has_news = time.time(), False
        for text in self.frames.feed(self.socket.recv(1 << 20)):
            frame = json.loads(text)
            if "ping" in frame:
                self.socket.sendall(client_frame({"pong": frame["ping"]}))
            elif "body" in frame:
                self._apply(frame, now, latencies)
                has_news = True
        return has_news

    def _apply(self, frame: dict[str, Any], now: float, latencies: list[float]) -> None:
        body = frame["body"]
        created = body.get("create", {})
        if frame.get("sync") == "full":
            self.items = {}
        elif "sync" not in frame:
            latencies.extend(now - item["times"]["created"] for item in created.values())
        self.items.update(created)
        for id_ in body.get("dismiss", {}).get("ids", ()):
            self.items.pop(id_, None)


class Writer:
    """Batches over raw HTTP, each to random users: three creations, then a dismissal of one of them."""

    def __init__(self, job: dict[str, Any]) -> None:
        self._connections = [Answers(address(url)) for url in job["ingests"]]
        self._key = job["key"]
        self._users = job["users"]
        self._text = body_of(190)
        self.sent = 0
        self.idle = list(self._connections)
        self.sockets = {one.socket.fileno(): one for one in self._connections}

    def write(self, count: int) -> None:
        """Send one batch of so many messages."""
        lines = b"\n".join(self._line(number) for number in range(self.sent, self.sent + count))
        self.sent += count
        self.idle.pop().send(request(self._key, "/v1/messages", "application/x-ndjson", lines))

    def answered(self, number: int) -> None:
        """Read a response on one of the connections."""
        one = self.sockets[number]
        if one.is_whole():
            self.idle.append(one)

    def _line(self, number: int) -> bytes:
        group, place = divmod(number, DISMISS_EVERY)
        uid = f"u{group * 7_919 % self._users}"
        if place == DISMISS_EVERY - 1:
            body: dict[str, Any] = {"dismiss": {"ids": [f"i{group}-0"]}}
        else:
            body = {"create": {f"i{group}-{place}": {"category": "user.joined", "body": self._text}}}
        return json.dumps({"uid": uid, "system": "gregor", "body": body}, separators=(",", ":")).encode()


def connect(job: dict[str, Any], poll: select.epoll) -> dict[int, Copy]:
    """Connect all devices, by the number of their socket. Connected ones answer pings while the others connect."""
    by_number: dict[int, Copy] = {}
    for uid, token in job["devices"]:
        copy = Copy(uid, open_device(job["gateway"], token))
        by_number[copy.socket.fileno()] = copy
        poll.register(copy.socket, select.EPOLLIN)
        if len(by_number) % 100 == 0:
            for number, _ in poll.poll(0):
                by_number[number].read([])
    return by_number


def run(job: dict[str, Any]) -> dict[str, Any]:
    """Connect, write for a fixed time, wait for silence; return latencies, and the digest of each device."""
    poll = select.epoll()
    by_number = connect(job, poll)
    copies = list(by_number.values())
    writer = Writer(job)
    for number in writer.sockets:
        poll.register(number, select.EPOLLIN)
    latencies: list[float] = []
    started = time.perf_counter()
    end, quiet_since = started + job["seconds"], started
    while time.perf_counter() < end or time.perf_counter() < quiet_since + job["quiet_s"]:
        due = min(int((time.perf_counter() - started) * job["rate"]), job["seconds"] * job["rate"]) - writer.sent
        if due >= job["rate"] * TURN_S and writer.idle:
            writer.write(min(int(due), 500))
        for number, _ in poll.poll(TURN_S / 2):
            if number in by_number:
                if by_number[number].read(latencies):
                    quiet_since = time.perf_counter()
            else:
                writer.answered(number)
    latencies.sort()
    digests: dict[str, list[str]] = {}
    for copy in copies:
        digests.setdefault(copy.uid, []).append(digest_of(copy.items))
    tails = {str(share): 1e3 * percentile(latencies, share) for share in (0.5, 0.99, 0.999)}
    return {"sent": writer.sent, "deliveries": len(latencies), "latency_ms": tails, "digests": digests}


if __name__ == "__main__":
    print(json.dumps(run(json.load(sys.stdin))))
