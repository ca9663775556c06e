"""Attacks beside a well-behaved user: its p50 and p99, and the memory of the attacked process.

All processes share the cores of one machine, so two things are kept out of the results. The attacker has the lowest
priority, because in production it has another machine; the kernel runs it when the services and the user wait.
And the bench takes a real-time priority if it may (as root), so that other work on the machine does not count. The
control sends the same load to a server that drops it: its p99 is the cost of the generator.
"""

from __future__ import annotations

import gc
import json
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from tests.bench import attacks_push
from tests.bench.machine import allow_many_sockets, real_time, rss_bytes
from tests.bench.report import Result, percentile, print_result
from tests.bench.sockets import Frames, address, client_frame, open_device
from tests.support.builders import NOW, item, message
from tests.support.cluster import Cluster

TARGET_RATIO = 1.5
TARGET_MIB = 20.0
TARGET_GONE_S = 15.0
PAUSE_S = 0.01
"""Between two messages of the well-behaved user."""
ATTACKED = {
    "pipeline": ("H1", "ingest"),
    "cookie": ("H2", "gateway"),
    "hello": ("H3", "gateway"),
    "refused_lines": ("H4", "ingest"),
    "exempt_ids": ("H5", "redis"),
    "intervals": ("H6", "redis"),
    "reminders": ("H6", "redis"),
    "dead_origin": ("H7", "delivery"),
    "slow_loris": ("slow-loris", "gateway"),
}
"""For each attack the finding, and the process whose memory is measured."""
CONTROLLED = ("pipeline", "cookie", "hello", "refused_lines", "slow_loris")
"""Attacks that wait for no answer, and therefore have a control."""


@dataclass(frozen=True, slots=True)
class Round:
    """Milliseconds of the well-behaved user without and with the attack; memory in MiB before and after it."""

    calm_ms: list[float]
    ms: list[float]
    before_mib: float
    after_mib: float
    report: dict[str, Any]


def run(quick: bool = False, rows: Sequence[str] = tuple(ATTACKED)) -> list[Result]:
    """Return for each attack the ratio of the p99s, and the growth of the attacked process."""
    allow_many_sockets()
    # a collection of the client would count as a delay of the services
    gc.collect()
    gc.freeze()
    gc.disable()
    found, seconds = [], 3.0 if quick else 6.0
    with real_time():
        for attack in rows:
            rounds = [measure(attack, seconds) for _ in range(1 if quick else 3)]
            found += [print_result(each) for each in results(attack, rounds)]
            if attack in CONTROLLED and not quick:
                found.append(print_result(control(attack, measure(attack, seconds, is_control=True))))
    gc.enable()
    return found


def results(attack: str, rounds: list[Round]) -> list[Result]:
    """Return the medians of the rounds."""
    finding, process = ATTACKED[attack]
    name = f"attacks, {finding} {attack.replace('_', ' ')}"
    p50s, p99s = ([_median(rounds, share, calm=calm) for calm in (True, False)] for share in (0.5, 0.99))
    ratio = statistics.median(_p(each.ms, 0.99) / _p(each.calm_ms, 0.99) for each in rounds)
    grown = statistics.median(each.after_mib - each.before_mib for each in rounds)
    beside = f"p50 {p50s[0]:.1f} → {p50s[1]:.1f} ms, p99 {p99s[0]:.1f} → {p99s[1]:.1f} ms; {rounds[-1].report}"
    memory = f"{process}, {statistics.median(each.before_mib for each in rounds):.0f} MiB before"
    found = [
        Result(f"{name}, p99", ratio, "×", f"≤ {TARGET_RATIO}", ratio <= TARGET_RATIO, beside),
        Result(f"{name}, memory", grown, "MiB", f"≤ {TARGET_MIB:.0f}", grown <= TARGET_MIB, memory),
    ]
    if attack == "slow_loris":
        gone_s = statistics.median(each.report["gone_s"] for each in rounds)
        found.append(Result(f"{name}, gone", gone_s, "s", f"≤ {TARGET_GONE_S:.0f}", gone_s <= TARGET_GONE_S))
    return found


def control(attack: str, measured: Round) -> Result:
    """Return the ratio of the p99s with the same load on a server that drops it."""
    ratio = _p(measured.ms, 0.99) / _p(measured.calm_ms, 0.99)
    beside = f"p99 {_p(measured.calm_ms, 0.99):.1f} → {_p(measured.ms, 0.99):.1f} ms"
    return Result(f"attacks, control of {attack.replace('_', ' ')}, p99", ratio, "×", "-", None, beside)


def measure(attack: str, seconds: float, *, is_control: bool = False) -> Round:
    """Run one attack against new services, after as long without it. A control aims at a server that drops all."""
    if attack == "dead_origin":
        return Round(*attacks_push.measure(4 * seconds))
    with tempfile.TemporaryDirectory() as place:
        services = {"gateways": 1, "ingests": 1, "schedulers": 1, "log_level": "error"}
        with Cluster(Path(place) / "c", **services) as cluster:  # type: ignore[arg-type]
            prepare(cluster)
            user = WellBehavedUser(cluster)
            user.run(1.0)
            calm_ms = user.run(seconds)
            pid = _pids(cluster)[ATTACKED[attack][1]]
            before = rss_bytes(pid)
            job = _job(cluster, attack, seconds)
            sink = start("tests.bench.attacks_sink") if is_control else None
            if sink is not None and sink.stdout is not None:
                job |= json.loads(sink.stdout.readline())
            attacker = start("tests.bench.attacks_load")
            assert attacker.stdin is not None and attacker.stdout is not None
            attacker.stdin.write(json.dumps(job))
            attacker.stdin.close()
            ms = user.run(seconds + 0.5)
            while attacker.poll() is None:  # the sockets of slow-loris live longer
                ms += user.run(0.5)
            after, report = rss_bytes(pid), json.loads(attacker.stdout.read())
            attacker.stdout.close()
            user.close()
            if sink is not None:
                sink.kill()
                sink.communicate()
    return Round(calm_ms, ms, before / 2**20, after / 2**20, report)


def start(module: str) -> subprocess.Popen[str]:
    """Start a module of the bench, with pipes."""
    command = [sys.executable, "-m", module]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def prepare(cluster: Cluster) -> None:
    """Give mallory 1,900 live items of another device."""
    headers = {"Authorization": f"Bearer {cluster.key}"}
    with httpx.Client(base_url=cluster.ingest_urls[0], headers=headers, trust_env=False, timeout=30) as client:
        for start in range(0, 1_900, 100):
            new = {f"i{n}": item("news", created=NOW, for_device="other") for n in range(start, start + 100)}
            client.post("/v1/users/mallory/messages", json=message(new)).raise_for_status()


def _pids(cluster: Cluster) -> dict[str, int]:
    return {"ingest": cluster.ingests[0].pid, "gateway": cluster.gateways[0].pid, "redis": cluster.server.pid}


def _job(cluster: Cluster, attack: str, seconds: float) -> dict[str, Any]:
    return {
        "attack": attack,
        "seconds": seconds,
        "ingest": cluster.ingest_urls[0],
        "gateway": cluster.gateway_urls[0],
        "stream": cluster.stream_urls[0],
        "tokens": [cluster.token("mallory", f"d{n}") for n in range(4)],
    }


class WellBehavedUser:
    """Alice: her backend sends messages one after the other, and her device receives each of them."""

    def __init__(self, cluster: Cluster) -> None:
        self._device, _ = open_device(cluster.gateway_urls[0], cluster.token("alice", "phone"))
        self._device.settimeout(30)
        self._frames = Frames()
        self._backend = socket.create_connection(address(cluster.ingest_urls[0]), 30)
        self._backend.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        body = json.dumps({"system": "probe", "body": {"words": "hello"}}).encode()
        head = f"POST /v1/users/alice/messages HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {cluster.key}\r\n"
        head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        self._request = head.encode() + body

    def run(self, seconds: float) -> list[float]:
        """Return the milliseconds of each message, from the request to the frame and the answer."""
        ends, found = time.monotonic() + seconds, []
        while time.monotonic() < ends:
            began = time.perf_counter()
            self._backend.sendall(self._request)
            self._await_frame()
            while b"\r\n\r\n" not in self._backend.recv(65_536):
                pass
            found.append(1_000 * (time.perf_counter() - began))
            time.sleep(PAUSE_S)
        return found

    def close(self) -> None:
        """Close both connections."""
        self._device.close()
        self._backend.close()

    def _await_frame(self) -> None:
        while True:
            is_there = False
            for text in self._frames.feed(self._device.recv(65_536)):
                frame = json.loads(text)
                if "ping" in frame:
                    self._device.sendall(client_frame({"pong": frame["ping"]}))
                is_there = is_there or "system" in frame
            if is_there:
                return


def _p(values: list[float], share: float) -> float:
    return percentile(sorted(values), share)


def _median(rounds: list[Round], share: float, *, calm: bool) -> float:
    return statistics.median(_p(each.calm_ms if calm else each.ms, share) for each in rounds)
