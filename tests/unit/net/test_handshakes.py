"""Threads of TLS handshakes: hosts with expensive certificates delay neither proven hosts nor new ones for long."""

from __future__ import annotations

import asyncio
import gc
import ssl
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpcore
import pytest
import uvloop

from gregor.clock import ManualClock
from gregor.net.outgoing.handshakes import HOST_THREADS, REMEMBERED_HOSTS, SLOW_KEPT_S, SLOW_S, HandshakeHosts
from gregor_delivery.channels.http_pool import HttpExchange, HttpPool
from tests.support.certificates import write_certificate
from tests.support.wait import wait_until

from .test_bounded_streams import NewReceivers

HOSTILE = [f"hostile{at}.test" for at in range(6)]
"""More hosts than there are threads."""


class Handshaking:
    """A pool whose receivers answer 204, and the handshakes of its hosts in their threads.

    `slow`: hosts whose next handshakes take much CPU time. `held`: those whose next ones wait for `may_end`.
    `failing`: those whose next ones fail. `started`: the hosts of all handshakes that reached a thread.
    """

    def __init__(self, certificate: Path) -> None:
        self.slow: set[str] = set()
        self.held: set[str] = set()
        self.failing: set[str] = set()
        self.started: list[str] = []
        self.may_end = threading.Event()
        server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        server.load_cert_chain(certificate)
        self._client = ssl.create_default_context(cafile=str(certificate))
        self._client.check_hostname = False
        self._client.sslobject_class = self._ssl_object()
        self.pool = HttpPool(20, self._client, NewReceivers(server))

    def _ssl_object(self) -> type[ssl.SSLObject]:
        handshaking = self

        class Controlled(ssl.SSLObject):
            def do_handshake(self) -> None:
                if threading.current_thread() is not threading.main_thread():
                    handshaking.reach_thread(str(self.server_hostname))
                super().do_handshake()

        return Controlled

    def reach_thread(self, host: str) -> None:
        self.started.append(host)
        end_s = time.thread_time() + 1.5 * SLOW_S
        while host in self.slow and time.thread_time() < end_s:
            pass
        if host in self.held:
            self.may_end.wait(30)
        if host in self.failing:
            raise ssl.SSLError("failed")

    async def call(self, host: str) -> int | None:
        """Send a request over a new connection, and return the status."""
        exchange = HttpExchange()
        headers = [("Host", host), ("Connection", "close")]
        async with asyncio.timeout(10):
            await self.pool.post(f"https://{host}/", headers, b"{}", exchange)
        return exchange.status

    def begin(self, *hosts: str) -> list[asyncio.Task[int | None]]:
        """Call the hosts, whose handshakes are then held."""
        self.held.update(hosts)
        self.started.clear()
        return [asyncio.create_task(self.call(host)) for host in hosts]


@pytest.fixture
def handshaking(tmp_path: Path) -> Iterator[Handshaking]:
    made = Handshaking(write_certificate(tmp_path))
    yield made
    made.may_end.set()


async def cancel(tasks: list[asyncio.Task[int | None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
@pytest.mark.parametrize("are_cancelled", [False, True])
@pytest.mark.parametrize("are_proven", [False, True])
def test_slow_hosts_delay_neither_new_hosts_nor_proven_ones(
    handshaking: Handshaking,
    are_proven: bool,
    are_cancelled: bool,
    run: Callable[[Coroutine[Any, Any, None]], None],
) -> None:
    async def attack() -> None:
        for host in [*HOSTILE * are_proven, "proven.test"]:
            await handshaking.call(host)
        handshaking.slow.update(HOSTILE)
        for host in HOSTILE:
            await handshaking.call(host)
        calls = handshaking.begin(*HOSTILE)
        await wait_until(lambda: bool(handshaking.started), "a handshake in a thread")
        if are_cancelled:
            await cancel(calls)
        assert [await handshaking.call(f"{name}.test") for name in ("new", "proven", "new")] == [204] * 3
        assert len(handshaking.started) == 4
        handshaking.may_end.set()
        assert are_cancelled or await asyncio.gather(*calls) == [204] * len(calls)
        assert await handshaking.call(HOSTILE[0]) == 204

    run(attack())


async def test_new_hosts_do_not_delay_proven_ones(handshaking: Handshaking) -> None:
    await handshaking.call("proven.test")
    calls = handshaking.begin(*HOSTILE)
    await wait_until(lambda: bool(handshaking.started), "a handshake in a thread")

    assert await handshaking.call("proven.test") == 204

    assert len(handshaking.started) == 2
    await cancel(calls)


async def test_slow_handshake_that_was_cancelled_or_failed_makes_its_host_slow(handshaking: Handshaking) -> None:
    handshaking.slow.update(HOSTILE)
    handshaking.failing.update(HOSTILE)
    first = handshaking.begin(HOSTILE[0])
    await wait_until(lambda: bool(handshaking.started), "a handshake in a thread")
    await cancel(first)
    handshaking.may_end.set()
    with pytest.raises(httpcore.ConnectError):
        await handshaking.call(HOSTILE[1])
    handshaking.may_end.clear()

    calls = handshaking.begin(*HOSTILE[:2])
    await wait_until(lambda: bool(handshaking.started), "a handshake in a thread")

    assert await handshaking.call("new.test") == 204
    await cancel(calls)


async def test_cancelled_handshake_that_waits_for_its_thread_does_not_run(handshaking: Handshaking) -> None:
    calls = handshaking.begin(*HOSTILE)
    await wait_until(lambda: bool(handshaking.started), "a handshake in a thread")

    await cancel(calls)
    handshaking.may_end.set()

    assert await handshaking.call("new.test") == 204
    assert handshaking.started == [HOSTILE[0], "new.test"]
    assert [await handshaking.call(host) for host in HOSTILE] == [204] * len(HOSTILE)


async def test_handshake_without_a_free_thread_fails_and_keeps_no_place(
    handshaking: Handshaking, monkeypatch: pytest.MonkeyPatch
) -> None:
    def submit(*_: object) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched:
        patched.setattr(ThreadPoolExecutor, "submit", submit)
        for _ in range(HOST_THREADS + 1):
            with pytest.raises(httpcore.ConnectError, match="no thread"):
                await handshaking.call("busy.test")

    assert await handshaking.call("busy.test") == 204


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
def test_cancelled_handshake_that_fails_logs_nothing(
    handshaking: Handshaking,
    run: Callable[[Coroutine[Any, Any, None]], None],
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def cancel_one() -> None:
        handshaking.failing.add(HOSTILE[0])
        calls = handshaking.begin(HOSTILE[0])
        await wait_until(lambda: bool(handshaking.started), "a handshake in a thread")
        await cancel(calls)
        handshaking.may_end.set()
        with suppress(httpcore.ConnectError):
            await handshaking.call(HOSTILE[0])
        gc.collect()

    run(cancel_one())

    assert caplog.messages == []


# --- memory of hosts ---


def test_slow_host_is_new_again_after_some_time() -> None:
    clock = ManualClock(0)
    hosts = HandshakeHosts(clock)
    new = hosts.threads("a")
    hosts.record_complete("a")
    proven = hosts.threads("a")

    hosts.record_step("a", 2 * SLOW_S)
    hosts.record_complete("a")
    slow = hosts.threads("a")
    clock.advance(SLOW_KEPT_S)

    assert len({new, proven, slow}) == 3
    assert hosts.threads("a") is new
    hosts.record_complete("a")
    assert hosts.threads("a") is proven


def test_oldest_hosts_are_forgotten() -> None:
    hosts = HandshakeHosts(ManualClock(0))
    new = hosts.threads("new")

    for at in range(REMEMBERED_HOSTS + 1):
        hosts.record_complete(f"proven{at}")
        hosts.record_complete("proven0")
        hosts.record_step(f"slow{at}", 2 * SLOW_S)

    assert [hosts.threads(host) is new for host in ("proven0", "proven1", "proven2")] == [False, True, False]
    assert [hosts.threads(host) is new for host in ("slow0", "slow1")] == [True, False]
