"""The load of `rolling` and `storm`: devices that reconnect, and a backend that sends messages on an open schedule.

Reads a job (JSON, in the file of its argument), and prints ``ready`` when all devices are connected. It sends until it
reads a line, waits until all devices are equal to the server, and prints one JSON document.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
import time
from collections import Counter
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import uvloop

from gregor.history.recorder import HistoryRecorder, outcome_of
from tests.bench.http_calls import Answer, HttpCalls
from tests.bench.reconnecting import UNSAFE, ReconnectingDevice, ReconnectLog
from tests.chaos.random_messages import RandomMessages

AT_ONCE = 64
"""Devices that connect, or users that are read, at a time."""
EQUAL_S = 60.0
"""Time in which all devices must be equal to the server."""
BACKENDS = 4
"""Client addresses of the backend."""
PER_ADDRESS = 100
"""Devices of one client address: the gateways limit them."""
RETRY_S = 1.0
"""Wait before a message without a response is sent again."""


@dataclass
class ReconnectJob:
    """``devices``: (uid, name, token, index of the first gateway). ``pushed``: users whose messages are pushed.

    ``rate``: messages a second. ``history``: file for the history checker; without it, nothing is recorded.
    """

    gateways: list[str]
    ingest: str
    key: str
    devices: list[tuple[str, str, str, int]]
    rate: float
    pushed: list[str] = field(default_factory=list)
    history: str | None = None
    has_addresses: bool = False


class Backend:
    """Sends messages. Repeats a message once, after `Retry-After`, if it was refused or got no response."""

    def __init__(self, job: ReconnectJob, recorder: HistoryRecorder | None) -> None:
        addresses = [f"127.1.255.{number}" for number in range(1, BACKENDS + 1)] if job.has_addresses else [None]
        self.calls = [HttpCalls(job.ingest, job.key, UNSAFE, address) for address in addresses]
        self.retried: Counter[str] = Counter()
        self.failed: Counter[str] = Counter()
        self.pushes: list[str] = []
        self.sent = 0
        self.is_over = False
        self._job = job
        self._recorder = recorder
        self._dice = random.Random(7)
        self._uids = sorted({uid for uid, *_ in job.devices})
        self._messages = RandomMessages(self._uids, self._dice)
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Send until ``is_over``; then wait for the last responses."""
        due = time.monotonic()
        while not self.is_over:
            due += 1 / self._job.rate
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            task = asyncio.create_task(self._send(*self._next()))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        if self._tasks:
            await asyncio.wait(self._tasks)

    def _next(self) -> tuple[str, dict[str, Any]]:
        self.sent += 1
        if self._job.pushed and self.sent % 20 == 0:
            self.pushes.append(f"push-{self.sent}")
            item = {"category": "pushed", "body": {"title": self.pushes[-1]}}
            return self._dice.choice(self._job.pushed), {
                "system": "gregor",
                "body": {"create": {self.pushes[-1]: item}},
            }
        uid = self._dice.choice(self._uids)
        return uid, self._messages.of(uid)

    async def _send(self, uid: str, message: dict[str, Any]) -> None:
        body = json.dumps(message).encode()
        for counted in (self.retried, self.failed):
            answer = await self._try(uid, body)
            status = None if answer is None else answer.status
            if status == 200:
                return
            counted[str(status or "no response")] += 1
            wait_s = RETRY_S if answer is None or answer.retry_after_s is None else answer.retry_after_s
            await asyncio.sleep(wait_s * self._dice.uniform(1.0, 1.2))

    async def _try(self, uid: str, body: bytes) -> Answer | None:
        invoked, answer = time.monotonic_ns(), None
        with suppress(OSError):
            answer = await self._dice.choice(self.calls).call("POST", f"/v1/users/{uid}/messages", body)
        if self._recorder is not None:
            outcome = outcome_of(None if answer is None else answer.status)
            receipt = answer.body if answer is not None and outcome == "ok" else None
            self._recorder.send(uid, body, invoked, outcome, receipt)
        return answer


class ReconnectLoad:
    """The devices, the backend, and the comparison at the end."""

    def __init__(self, job: ReconnectJob) -> None:
        self._recorder = HistoryRecorder(Path(job.history)) if job.history else None
        self._log = ReconnectLog(self._recorder)
        self._job = job
        self._devices = [self._device(number) for number in range(len(job.devices))]
        self._backend = Backend(job, self._recorder)

    def _device(self, number: int) -> ReconnectingDevice:
        uid, name, token, first = self._job.devices[number]
        urls = self._job.gateways[first:] + self._job.gateways[:first]
        high, low = divmod(number // PER_ADDRESS, 250)
        address = f"127.1.{high}.{low + 1}" if self._job.has_addresses else None
        return ReconnectingDevice(uid, name, token, urls, address, self._log)

    async def run(self) -> dict[str, Any]:
        """Connect, send until a line is read, compare the devices with the server, and return the results."""
        await self._each(self._devices, self._connect)
        reader = asyncio.StreamReader()
        await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
        print("ready", flush=True)
        sending = asyncio.create_task(self._backend.run())
        await reader.readline()
        self._backend.is_over = True
        await sending
        different = await self._different()
        uids = {uid for uid, *_ in self._job.devices} | set(self._job.pushed)
        if self._recorder is not None:
            await self._each(uids, self._record)
        for device in self._devices:
            device.stop()
        for calls in self._backend.calls:
            calls.close()
        if self._recorder is not None:
            self._recorder.close()
        log, backend = self._log, self._backend
        return {
            "outages": [asdict(each) for each in log.outages], "latencies": log.latencies, "ends": log.ends,
            "sent": backend.sent, "retried": backend.retried, "failed": backend.failed, "pushes": backend.pushes,
            "different": different,
        }  # fmt: skip

    async def _connect(self, device: ReconnectingDevice) -> None:
        device.connect()
        await device.synced.wait()

    async def _different(self) -> list[str]:
        """Return the devices that do not become equal to the server."""
        left, until = self._devices, time.monotonic() + EQUAL_S
        while left and time.monotonic() < until:
            equal = await self._each(left, self._is_equal)
            left = [device for device, is_equal in zip(left, equal, strict=True) if not is_equal]
            await asyncio.sleep(0.5 if left else 0)
        return [f"{device.uid}/{device.name}" for device in left]

    async def _is_equal(self, device: ReconnectingDevice) -> bool:
        try:
            answer = await self._backend.calls[0].call("GET", f"/v1/users/{device.uid}/state?device={device.name}")
        except OSError:
            return False
        return answer.status == 200 and answer.document["digest"] == device.mirror.digest

    async def _record(self, uid: str) -> None:
        assert self._recorder is not None
        calls, invoked = self._backend.calls[0], time.monotonic_ns()
        state = await calls.call("GET", f"/v1/users/{uid}/state")
        self._recorder.read(uid, "state", invoked, outcome_of(state.status), state.body)
        invoked = time.monotonic_ns()
        history = await calls.call("GET", f"/v1/users/{uid}/history?limit=1000")
        self._recorder.read(uid, "history", invoked, outcome_of(history.status), history.body)

    async def _each(self, values: Any, work: Any) -> list[Any]:
        """Call ``work`` for each value, some at a time, and return the results in order."""
        turns = asyncio.Semaphore(AT_ONCE)

        async def one(value: Any) -> Any:
            async with turns:
                return await work(value)

        return await asyncio.gather(*map(one, values))


if __name__ == "__main__":
    chosen = ReconnectJob(**json.loads(Path(sys.argv[1]).read_text("utf-8")))
    print(json.dumps(uvloop.run(ReconnectLoad(chosen).run())))
