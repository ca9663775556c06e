"""Reports to systemd: what a notify socket receives from a function, and from the four services."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from gregor.net.service_manager import ALIVE, READY, STOPPING, report, report_alive, watchdog_interval_s
from tests.support.cluster import Cluster
from tests.support.wait import wait_until_sync


class NotifySocket:
    """The socket on which systemd receives the reports of a service."""

    def __init__(self, path: str) -> None:
        self.environ = {"NOTIFY_SOCKET": path}
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind("\0" + path[1:] if path.startswith("@") else path)
        self._socket.setblocking(False)
        self.states: list[str] = []

    def received(self) -> list[str]:
        """Return all reports until now."""
        while True:
            try:
                self.states.append(self._socket.recv(4096).decode())
            except BlockingIOError:
                return self.states

    def close(self) -> None:
        self._socket.close()


@pytest.fixture(params=["path", "abstract"])
def systemd(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[NotifySocket]:
    listening = NotifySocket(f"@gregor-{os.getpid()}" if request.param == "abstract" else str(tmp_path / "notify"))
    yield listening
    listening.close()


def test_report_reaches_the_socket(systemd: NotifySocket) -> None:
    report(READY, systemd.environ)

    assert systemd.received() == [READY]


def test_no_report_without_systemd() -> None:
    report(READY, {})


def test_missing_socket_stops_no_service(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    report(READY, {"NOTIFY_SOCKET": str(tmp_path / "missing")})


@pytest.mark.parametrize(
    ("environ", "interval"),
    [
        ({"WATCHDOG_USEC": "20000000", "WATCHDOG_PID": "7"}, 10.0),
        ({"WATCHDOG_USEC": "20000000"}, 10.0),
        ({"WATCHDOG_USEC": "20000000", "WATCHDOG_PID": "8"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
        ({}, None),
    ],
)
def test_watchdog_reports_at_half_its_time(environ: dict[str, str], interval: float | None) -> None:
    assert watchdog_interval_s(environ, pid=7) == interval


async def test_blocked_event_loop_reports_nothing(systemd: NotifySocket, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the event loop itself reports. A thread could report while the loop is blocked for good."""
    turns = iter(range(3))
    reports_before_turn = []

    async def next_turn(_: float) -> None:
        reports_before_turn.append(len(systemd.received()))
        if next(turns, None) is None:
            raise asyncio.CancelledError

    monkeypatch.setattr(asyncio, "sleep", next_turn)
    with pytest.raises(asyncio.CancelledError):
        await report_alive({**systemd.environ, "WATCHDOG_USEC": "1000"})

    assert reports_before_turn == [1, 2, 3, 4]


class NotifyingCluster(Cluster):
    """One process of each service, with a notify socket for each."""

    def __init__(self, directory: Path) -> None:
        super().__init__(
            directory, gateways=1, ingests=1, schedulers=1, deliveries=1, drain_seconds=1, pre_drain_seconds=0
        )
        self.sockets = {}
        for service in self.services:
            listening = self.sockets[service.name] = NotifySocket(str(directory / f"{service.name}.notify"))
            service.environ = {**service.environ, **listening.environ, "WATCHDOG_USEC": "100000"}


@pytest.mark.e2e
def test_every_service_reports_its_life(tmp_path: Path) -> None:
    with NotifyingCluster(tmp_path / "c") as cluster:
        for service in cluster.services:
            listening = cluster.sockets[service.name]
            wait_until_sync(lambda of=listening: of.received().count(ALIVE) >= 3, "the watchdog is fed", 10)
            service.signal(signal.SIGTERM)
            wait_until_sync(lambda of=listening: STOPPING in of.received(), "the stop is reported", 10)
            service.wait()
            assert [state for state in listening.received() if state != ALIVE] == [READY, STOPPING]
            listening.close()
