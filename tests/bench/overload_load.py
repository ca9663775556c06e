"""The load of `overload`: messages on an open schedule, or from callers that each wait for their response.

Each connection has one request at a time. On an open schedule, a message is due at a fixed rate, whatever the server
does. It is not sent if no connection is free. A refused message is sent once more after ``Retry-After``, and counts in
the rate. In a closed loop, each caller sends its next message at once, or after ``Retry-After`` if it was refused.
"""

from __future__ import annotations

import heapq
import json
import random
import re
import select
import sys
import time
from dataclasses import dataclass
from typing import Any, Final

from tests.bench.ingest_load import CATEGORY, Answers, request
from tests.bench.sockets import address, body_of

AT_ONCE: Final = 16
"""Requests that are sent before responses are read again: otherwise their latency would contain that of the load."""
ITEMS: Final = 8
"""Items of a message. With one item, three times the peak would be more than the core of the load can send."""
JITTER: Final = 1.5
"""A refused caller waits for up to so many times ``Retry-After``, as HTTP clients do."""
OK: Final = b"HTTP/1.1 200"
_RETRY_AFTER: Final = re.compile(rb"(?i)\r\nretry-after: (\d+)")
_ACCEPTED: Final = (True, 0)
_NUMBER: Final = "%08d"


@dataclass
class OverloadJob:
    """``callers``: the connections that send. ``rate``: requests a second; 0 for a closed loop. Times in seconds."""

    url: str
    key: str
    run: str
    users: int
    connections: int
    callers: int
    rate: float
    seconds: float
    warm_s: float


class Caller(Answers):
    """One keep-alive connection. ``number``: of the request that it sent, below 0 for one that is sent again."""

    number = 0

    def status(self) -> tuple[bool, int] | None:
        """Read available bytes. Returns whether the request was accepted, and ``Retry-After``, if all was received."""
        if not self.is_whole(any_status=True):
            return None
        if self.head.startswith(OK):
            return _ACCEPTED
        wait = _RETRY_AFTER.search(self.head)
        return False, int(wait[1]) if wait else -1


class OverloadLoad:
    """Counts the responses after the warm-up. ``accepted`` and ``refused``: their latencies in seconds."""

    def __init__(self, job: OverloadJob) -> None:
        self.job = job
        self.accepted: list[float] = []
        self.refused: list[float] = []
        self.unadvised = self.closed = self.unsent = self.sent = 0
        self._poll = select.epoll()
        self._callers: dict[int, Caller] = {}
        self._free: list[int] = []
        self._retries: list[tuple[float, int]] = []
        self._next = 0
        self._texts = [self._template(user) for user in range(job.users)]
        self._began_s = 0.0

    def run(self) -> dict[str, Any]:
        """Send for the time of the job."""
        job = self.job
        for _ in range(job.connections):
            self._connect()
        del self._free[job.callers :]
        self._began_s = time.perf_counter()
        while (now := self._now()) < job.seconds:
            if job.rate:
                self._send_due(now)
            else:
                self._send_free(now)
            for number, _ in self._poll.poll(0 if self._free else 0.001, AT_ONCE if job.rate else -1):
                self._read(number)
        return {
            "accepted": sorted(self.accepted), "refused": sorted(self.refused), "unadvised": self.unadvised,
            "closed": self.closed, "unsent": self.unsent, "sent": self.sent,
        }  # fmt: skip

    def _now(self) -> float:
        return time.perf_counter() - self._began_s

    def _connect(self) -> None:
        caller = Caller(address(self.job.url))
        self._callers[caller.socket.fileno()] = caller
        self._poll.register(caller.socket, select.EPOLLIN)
        self._free.append(caller.socket.fileno())

    # ---- requests

    def _template(self, user: int) -> tuple[bytes, bytes]:
        """Return the request of a user around its number: building one for each message would cost too much."""
        mark = _NUMBER % 0
        items = {f"{self.job.run}-{mark}-{n}": {"category": CATEGORY, "body": body_of(190)} for n in range(ITEMS)}
        document = {"system": "gregor", "body": {"create": items}}
        body = json.dumps(document, separators=(",", ":")).encode()
        return request(self.job.key, f"/v1/users/u{user}/messages", "application/json", body), mark.encode()

    def _send(self, fd: int, number: int) -> None:
        text, mark = self._texts[abs(number) % len(self._texts)]
        caller = self._callers[fd]
        caller.number = number
        self.sent += 1
        caller.send(text.replace(mark, b"%08d" % abs(number)))

    def _send_due(self, now: float) -> None:
        """Send the requests of the schedule until now, retries first."""
        due = int(now * self.job.rate)
        for _ in range(min(AT_ONCE, len(self._free), due - self._next)):
            self._next += 1
            is_retry = bool(self._retries) and self._retries[0][0] <= now
            self._send(self._free.pop(), -heapq.heappop(self._retries)[1] if is_retry else self._next)
        if not self._free and self._next < due:
            self.unsent += due - self._next
            self._next = due

    def _send_free(self, now: float) -> None:
        """Send for each caller that is free."""
        while self._retries and self._retries[0][0] <= now:
            self._free.append(heapq.heappop(self._retries)[1])
        for _ in range(min(AT_ONCE, len(self._free))):
            self._next += 1
            self._send(self._free.pop(), self._next)

    # ---- responses

    def _read(self, fd: int) -> None:
        caller = self._callers[fd]
        try:
            status = caller.status()
        except OSError:
            self.closed += caller.number != 0  # a connection that was never used is closed after 10 s
            self._poll.unregister(caller.socket)
            caller.socket.close()
            del self._callers[fd]
            self._connect()
            return
        if status is None:
            return
        is_accepted, wait_s = status
        now = self._now()
        if now >= self.job.warm_s:
            (self.accepted if is_accepted else self.refused).append(time.perf_counter() - caller.sent_at)
            self.unadvised += wait_s < 0
        if is_accepted or self.job.rate:
            self._free.append(fd)
        number, caller.number = caller.number, 0
        again = now + abs(wait_s) * random.uniform(1.0, JITTER)
        if not is_accepted and self.job.rate and number > 0:
            heapq.heappush(self._retries, (again, number))
        elif not is_accepted and not self.job.rate:
            heapq.heappush(self._retries, (again, fd))


if __name__ == "__main__":
    print(json.dumps(OverloadLoad(OverloadJob(**json.load(sys.stdin))).run()))
