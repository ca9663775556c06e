"""Compare the CPU time of this tree and of a commit: `paired:COMMIT`, or `paired` for the last commit.

`paired:COMMIT,creation,connect` runs only the loads with these words in their names.

Both clusters run at the same time, and short loads alternate between them. Other work on the machine affects both
alike. The median of the ratios therefore shows a difference of 2 % even on a busy machine. The load generator of this
tree sends to both, over the wire.
"""

from __future__ import annotations

import io
import json
import select
import socket
import statistics
import subprocess
import tarfile
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

from tests.bench.idle import Idle
from tests.bench.ingest_load import Answers, message, request
from tests.bench.machine import UNDER_TEST, cpu_ns, pin
from tests.bench.report import Result, print_result
from tests.bench.sockets import Frames, address, body_of, client_frame, open_device
from tests.support.cluster import ROOT, Cluster

MOST_RATIO = 1.03
USERS = 200
DEVICES = 3
"""Devices of each user that receive the changes of `fan-out`."""
Measure = Callable[["Side", int], dict[str, float]]


def run(quick: bool = False, rows: Sequence[str] = ("HEAD",)) -> list[Result]:
    """Return the ratio of this tree to a commit for each load and process.

    `rows`: the commit, then words of the names of loads; without a word, all loads.
    """
    commit, *words = rows
    rounds = 30 if quick else 120
    with tempfile.TemporaryDirectory() as directory, ExitStack() as stack:
        place = Path(directory)
        other = unpack(commit, place / "code")
        sides = [stack.enter_context(Side(place / name, code)) for name, code in (("old", other), ("new", ROOT))]
        results = []
        for name in names_of(words):
            results += [print_result(result) for result in compare(name, LOADS[name], sides, rounds)]
        if not words:
            results.append(print_result(idle(sides, 20 if quick else 60)))
        return results


def names_of(words: Sequence[str]) -> list[str]:
    """Return the names of the loads that contain one of these words; without a word, all names."""
    return [name for name in LOADS if not words or any(word in name for word in words)]


def unpack(commit: str, target: Path) -> Path:
    """Write the files of a commit into a new directory. Raises ``CalledProcessError`` for an unknown commit."""
    packed = subprocess.run(["git", "archive", commit], cwd=ROOT, check=True, capture_output=True).stdout
    with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
        archive.extractall(target, filter="data")
    return target


def compare(name: str, measure: Measure, sides: Sequence[Side], rounds: int) -> Iterator[Result]:
    """Run a load on both sides, in turns, and yield a result for each process that it uses."""
    values: list[list[dict[str, float]]] = [[], []]
    for number in range(-2, rounds):
        if number % 10 == 8:
            for side in sides:
                side.empty()
        for which in (0, 1) if number % 2 else (1, 0):
            used = measure(sides[which], number)
            if number >= 0:  # the first rounds fill caches and arenas
                values[which].append(used)
    for process in values[0][0]:
        old, new = ([each[process] for each in side] for side in values)
        yield ratio_of(f"{name}, {process}", old, new)


def ratio_of(name: str, old: Sequence[float], new: Sequence[float]) -> Result:
    """Return the median of the ratios of each round."""
    ratios = [after / before for before, after in zip(old, new, strict=True)]
    ratio = statistics.median(ratios)
    beside = f"{statistics.median(old):.1f} before, {statistics.median(new):.1f} µs now"
    if len(ratios) > 2:
        low, _, high = statistics.quantiles(ratios, n=4)
        beside += f"; quartiles {low:.3f} and {high:.3f}"
    return Result(name, ratio, "× before", f"≤ {MOST_RATIO} ×", ratio <= MOST_RATIO, beside)


def idle(sides: Sequence[Side], seconds: float) -> Result:
    """Return the ratio for 1,000 idle devices, which both sides have at the same time."""
    with ExitStack() as stack:
        for side in sides:
            tokens = [side.cluster.token(f"i{number // 3}", f"d{number % 3}") for number in range(1_000)]
            stack.enter_context(Idle(side.cluster, tokens))
        time.sleep(5)  # the work that follows each connect
        before = [cpu_ns(side.gateway) for side in sides]
        time.sleep(seconds)
        used = [(cpu_ns(side.gateway) - begun) / 1e6 / seconds for side, begun in zip(sides, before, strict=True)]
    return ratio_of("an idle device for a second, gateway", used[:1], used[1:])


class Side:
    """A cluster of one of the two trees, with the connections of the load, as a context manager."""

    def __init__(self, directory: Path, code: Path) -> None:
        self.cluster = Cluster(directory, code=code, gateways=1, ingests=1, log_level="warning")
        self._serial = 0

    def __enter__(self) -> Side:
        self.cluster.__enter__()
        self.ingest, self.gateway = self.cluster.ingests[0].pid, self.cluster.gateways[0].pid
        for pid in (self.ingest, self.gateway):
            pin(pid, UNDER_TEST)
        self.listeners: list[socket.socket] = []
        return self

    def __exit__(self, *_: object) -> None:
        for device in self.listeners:
            device.close()
        self.cluster.__exit__()

    def empty(self) -> None:
        """Remove all users, because their states grow with each round."""
        for device in self.listeners:
            device.close()
        self.listeners = []
        self.cluster.server.say("FLUSHALL")
        self.cluster.key = self.cluster.create_key("ingest")

    def serial(self) -> int:
        """Return a new number, the same on both sides."""
        self._serial += 1
        return self._serial

    def send(self, path: str, documents: Sequence[dict[str, Any]], kind: str = "application/json") -> bytes:
        """Return a request with documents, one on each line."""
        lines = "\n".join(json.dumps(document, separators=(",", ":")) for document in documents)
        return request(self.cluster.key, path, kind, lines.encode())

    def drive(self, requests: Sequence[bytes]) -> None:
        """Send requests over eight connections, each after the last answer."""
        with select.epoll() as poll, ExitStack() as stack:
            links = [Answers(address(self.cluster.ingest_urls[0])) for _ in range(8)]
            by_number = {stack.enter_context(closing(link.socket)).fileno(): link for link in links}
            for number in by_number:
                poll.register(number, select.EPOLLIN)
            waiting, left = deque(requests), len(requests)
            for link in links[:left]:
                link.send(waiting.popleft())
            while left:
                for number, _ in poll.poll():
                    if by_number[number].is_whole():
                        left -= 1
                        if waiting:
                            by_number[number].send(waiting.popleft())

    def used_us(self, requests: Sequence[bytes], messages: int) -> dict[str, float]:
        """Send requests; return CPU µs of a message for ingest and Redis."""
        pids = {"ingest": self.ingest, "Redis": self.cluster.server.pid}
        before = {name: cpu_ns(pid) for name, pid in pids.items()}
        self.drive(requests)
        return {name: (cpu_ns(pid) - before[name]) / 1e3 / messages for name, pid in pids.items()}


# ---- loads. Each returns CPU µs by process.


def creations(side: Side, _: int) -> dict[str, float]:
    text = body_of(190)
    numbers = [side.serial() for _ in range(500)]
    return side.used_us([side.send(_path(n), [message(f"c{n}", text)]) for n in numbers], len(numbers))


def dismissals(side: Side, _: int) -> dict[str, float]:
    numbers = [side.serial() for _ in range(500)]
    document = {"system": "gregor", "body": {"dismiss": {"intervals": [{"category": "user.joined"}]}}}
    return side.used_us([side.send(_path(n), [document]) for n in numbers], len(numbers))


def batches(side: Side, _: int) -> dict[str, float]:
    text = body_of(190)
    numbers = [side.serial() for _ in range(4_000)]
    lines = [{"uid": f"u{n % USERS}", **message(f"b{n}", text)} for n in numbers]
    parts = [lines[at : at + 100] for at in range(0, len(lines), 100)]
    return side.used_us([side.send("/v1/messages", part, "application/x-ndjson") for part in parts], len(lines))


def connects(side: Side, _: int) -> dict[str, float]:
    number = side.serial()
    tokens = [side.cluster.token(f"n{number}-{each // 3}", f"d{each % 3}") for each in range(100)]
    before = cpu_ns(side.gateway)
    opened = [open_device(side.cluster.gateway_urls[0], token)[0] for token in tokens]
    time.sleep(0.2)  # the work that follows each connect
    used = cpu_ns(side.gateway) - before
    for device in opened:
        device.close()
    time.sleep(0.2)
    return {"gateway": used / 1e3 / len(tokens)}


def fan_out(side: Side, number: int) -> dict[str, float]:
    if not side.listeners:
        tokens = [side.cluster.token(f"u{user}", f"d{each}") for user in range(USERS) for each in range(DEVICES)]
        side.listeners = [open_device(side.cluster.gateway_urls[0], token)[0] for token in tokens]
        time.sleep(1)  # the work that follows each connect
    text, before = body_of(190), cpu_ns(side.gateway)
    users = [side.serial() % USERS for _ in range(USERS)]
    side.drive([side.send(f"/v1/users/u{user}/messages", [message(f"f{number}-{user}", text)]) for user in users])
    frames = USERS * DEVICES
    receive(side.listeners, frames)
    return {"gateway": (cpu_ns(side.gateway) - before) / 1e3 / frames}


def receive(devices: Sequence[socket.socket], count: int) -> None:
    """Read from all devices until they have received this many changes, and answer pings."""
    with select.epoll() as poll:
        buffers = {device.fileno(): (device, Frames()) for device in devices}
        for number in buffers:
            poll.register(number, select.EPOLLIN)
        while count > 0:
            for number, _ in poll.poll():
                device, buffer = buffers[number]
                for text in buffer.feed(device.recv(65_536)):
                    count -= b'"create"' in text
                    if text.startswith(b'{"ping":'):
                        device.sendall(client_frame({"pong": json.loads(text)["ping"]}))


def _path(number: int) -> str:
    return f"/v1/users/u{number % USERS}/messages"


LOADS: dict[str, Measure] = {
    "a creation": creations,
    "a dismissal of an interval": dismissals,
    "a creation in a batch": batches,
    "a connect": connects,
    "a frame of fan-out": fan_out,
}
