"""The load of the ingest benchmark: raw HTTP/1.1 requests over a few connections, each answered before the next."""

from __future__ import annotations

import json
import select
import socket
import sys
import time
from typing import Any

from tests.bench.sockets import address, body_of

CATEGORY = "user.joined"


def message(id_: str, body: dict[str, str]) -> dict[str, Any]:
    return {"system": "gregor", "body": {"create": {id_: {"category": CATEGORY, "body": body}}}}


def request(key: str, path: str, kind: str, body: bytes) -> bytes:
    head = (
        f"POST {path} HTTP/1.1\r\nHost: bench\r\nAuthorization: Bearer {key}\r\n"
        f"Content-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def requests(job: dict[str, Any]) -> list[bytes]:
    """Build all requests before the clock starts; each item is new, and users take turns."""
    made = []
    text = body_of(190)
    for number in range(job["requests"]):
        if job["batch"] == 1:
            one = json.dumps(message(f"{job['run']}-{number}", text), separators=(",", ":")).encode()
            path = f"/v1/users/u{number % job['users']}/messages"
            made.append(request(job["key"], path, "application/json", one))
        else:
            lines = [
                json.dumps(
                    {
                        "uid": f"u{(number * job['batch'] + n) % job['users']}",
                        **message(f"{job['run']}-{number}-{n}", text),
                    },
                    separators=(",", ":"),
                )
                for n in range(job["batch"])
            ]
            made.append(request(job["key"], "/v1/messages", "application/x-ndjson", "\n".join(lines).encode()))
    return made


class Answers:
    """Counts complete responses on one connection, and remembers when the request was sent."""

    def __init__(self, place: tuple[str, int]) -> None:
        self.socket = socket.create_connection(place)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sent_at = 0.0
        self.head = b""
        self._got = b""

    def send(self, text: bytes) -> None:
        self.sent_at = time.perf_counter()
        self.socket.sendall(text)

    def is_whole(self, *, any_status: bool = False) -> bool:
        """Read available bytes; return whether the response is complete. Its head is then in ``head``.

        Raises RuntimeError for a status other than 200, unless ``any_status``; ConnectionError at the end.
        """
        received = self.socket.recv(1 << 20)
        if not received:
            raise ConnectionError("the server closed the connection")
        self._got += received
        self.head, separator, body = self._got.partition(b"\r\n\r\n")
        head = self.head
        if not separator:
            return False
        if not (any_status or head.startswith(b"HTTP/1.1 200")):
            raise RuntimeError(self._got[:500].decode("utf-8", "replace"))
        lower = head.lower()
        if b"transfer-encoding: chunked" in lower:
            whole = body.endswith(b"0\r\n\r\n")
        else:
            size = int(lower.partition(b"content-length:")[2].split(b"\r\n")[0])
            whole = len(body) >= size
        if whole:
            self._got = b""
        return whole


def drive(job: dict[str, Any], queue: list[bytes]) -> dict[str, Any]:
    """Send all; return the time and the sorted latencies in seconds. `pace`: requests per second (0: closed loop)."""
    connections = [Answers(address(job["url"])) for _ in range(job["connections"])]
    poll = select.epoll()
    by_number = {one.socket.fileno(): one for one in connections}
    for one in connections:
        poll.register(one.socket, select.EPOLLIN)
    idle, sent = list(connections), 0
    latencies: list[float] = []
    started = time.perf_counter()
    while len(latencies) < len(queue):
        while idle and sent < len(queue):
            if job["pace"] and time.perf_counter() < started + sent / job["pace"]:
                break
            idle.pop().send(queue[sent])
            sent += 1
        for number, _ in poll.poll(0.0005 if job["pace"] else 1):
            one = by_number[number]
            if one.is_whole():
                latencies.append(time.perf_counter() - one.sent_at)
                idle.append(one)
    return {"seconds": time.perf_counter() - started, "latencies": sorted(latencies)}


if __name__ == "__main__":
    asked = json.load(sys.stdin)
    print(json.dumps(drive(asked, requests(asked))))
