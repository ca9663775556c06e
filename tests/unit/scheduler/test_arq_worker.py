"""The arq host: due work runs all the time, whatever the queue Redis does."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from itertools import count, pairwise
from pathlib import Path
from typing import Any

import pytest
import redis

from gregor.clock import SystemClock
from gregor.core.rate_limit import RateLimiter
from gregor.dev.embedded_redis import find_server
from gregor.dev.fakes.tls import CertificateAuthority
from gregor.redis.address import UrlSource
from gregor.store.jobs import Job
from gregor_scheduler.arq_worker import ArqHost, _connect, _connect_to_primary
from gregor_scheduler.due_loop import DueLoop
from gregor_scheduler.handlers.dispatch import DueHandlers
from tests.support.fake_sentinel import FakeSentinel
from tests.support.machine import Waiting
from tests.support.servers import Server, running_server
from tests.support.wait import wait_until
from tests.unit.scheduler.conftest import LEASE_US, SchedulerHarness, build

pytestmark = pytest.mark.filterwarnings(
    "ignore:(?i)unclosed:ResourceWarning",
    "ignore:Exception ignored in. <socket:pytest.PytestUnraisableExceptionWarning",
)
"""A command of arq that is cancelled leaves its connection to the garbage collector."""
WATCHED_S = 4.0
"""Long enough for a tick to end, with the short times of this module, and for the missing next one to be noticed."""
MAX_GAP_S = 0.5 + 0.3
"""Pause between two rounds, or until a tick counts as missing; plus the delays of an event loop and its timers."""


class RecordingAgenda:
    """Records the times at which the due loop looks for due work."""

    def __init__(self, harness: SchedulerHarness) -> None:
        self._agenda = harness.store.agenda
        self.rounds_s: list[float] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._agenda, name)

    async def next_due_times(self) -> Any:
        self.rounds_s.append(time.monotonic())
        return await self._agenda.next_due_times()


def recorded(harness: SchedulerHarness) -> tuple[DueLoop, RecordingAgenda]:
    """Return a due loop on the system clock, and its recording agenda."""
    agenda = RecordingAgenda(harness)
    handlers = DueHandlers(harness.context, RateLimiter(1, 1))
    return DueLoop(agenda, handlers, SystemClock(), harness.metrics, LEASE_US), agenda


def host_of(
    url: UrlSource,
    due_loop: DueLoop,
    queues: str = "q",
    run_job: Callable[[str], Coroutine[Any, Any, None]] | None = None,
    monotonic: Callable[[], float] = time.monotonic,
    process: str = "host",
) -> ArqHost:
    async def no_job(job_id: str) -> None:
        raise AssertionError(f"no job was enqueued, but {job_id} runs")

    return ArqHost(url, due_loop, queues, process, monotonic, run_job or no_job)


@pytest.fixture
def queue(tmp_path: Path) -> Iterator[Server]:
    server = Server(str(find_server()), tmp_path).start()
    yield server
    server.kill()


def arq_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "arq"]


@pytest.fixture(autouse=True)
async def no_thread_is_left(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[None]:
    """Wait for the end of arq's thread, and collect its connections here instead of in a later test."""
    for name, value in {"RESTART_S": 0.2, "TICK_S": 1, "POLL_S": 0.25, "SILENCE_S": 1.75, "JOB_POLL_S": 0.25}.items():
        monkeypatch.setattr(f"gregor_scheduler.arq_worker.{name}", value)
    yield
    await wait_until(lambda: not arq_threads(), "the thread of arq ends", 20)
    gc.collect()


async def stop(due_loop: DueLoop, running: asyncio.Task[None]) -> None:
    """Stop as the process does; neither may wait for the queue Redis."""
    await asyncio.wait_for(due_loop.stop(), 10)
    await asyncio.wait_for(running, 10)


@pytest.mark.parametrize("trouble", ["none", "killed", "suspended"])
async def test_due_work_runs_while_the_queue_is(queue: Server, trouble: str) -> None:
    due_loop, agenda = recorded(await build())
    running = asyncio.create_task(host_of(queue.url, due_loop).run())
    try:
        await wait_until(lambda: len(agenda.rounds_s) > 2, "arq ticks")
        waiting = Waiting()
        began_s = agenda.rounds_s[-1]
        if trouble == "killed":
            queue.kill()
        elif trouble == "suspended":
            queue.suspend()
        await wait_until(lambda: agenda.rounds_s[-1] > began_s + WATCHED_S, "rounds continue", 20)
        longest_s = max(after - before for before, after in pairwise(s for s in agenda.rounds_s if s >= began_s))
        assert longest_s < MAX_GAP_S + waiting.lost_s()
    finally:
        await stop(due_loop, running)
        if trouble == "suspended":
            queue.resume()


async def test_arq_ticks_again_after_a_queue_restart(queue: Server) -> None:
    due_loop, _ = recorded(await build())
    host = host_of(queue.url, due_loop)
    running = asyncio.create_task(host.run())
    await wait_until(lambda: queue.say("EXISTS", "q:host:health-check") == ":1\r\n", "arq runs")
    queue.kill()
    queue.start()
    restarted_s = time.monotonic()
    await wait_until(lambda: host._last_tick_s > restarted_s + 2, "arq ticks again", 20)
    await stop(due_loop, running)


async def test_arq_logs_in_with_the_current_password(queue: Server) -> None:
    queue.say("ACL", "SETUSER", "gregor", "on", ">one", "~*", "&*", "+@all")
    password = "one"
    due_loop, _ = recorded(await build())
    host = host_of(lambda: f"redis://gregor:{password}@127.0.0.1:{queue.port}/0", due_loop)
    running = asyncio.create_task(host.run())
    await wait_until(lambda: queue.say("EXISTS", "q:host:health-check") == ":1\r\n", "arq runs")

    queue.say("ACL", "SETUSER", "gregor", ">two", "<one")
    password = "two"
    queue.say("DEL", "q:host:health-check")
    queue.say("CLIENT", "KILL", "USER", "gregor")

    await wait_until(lambda: queue.say("EXISTS", "q:host:health-check") == ":1\r\n", "arq runs again", 20)
    await stop(due_loop, running)


async def test_arq_follows_the_sentinels(queue: Server, tmp_path: Path) -> None:
    with running_server(queue.binary, tmp_path) as other:
        async with FakeSentinel(("127.0.0.1", queue.port)) as sentinel:
            due_loop, _ = recorded(await build())
            url = f"redis+sentinel://127.0.0.1:{sentinel.port}/gregor/0"
            running = asyncio.create_task(host_of(url, due_loop).run())
            await wait_until(lambda: queue.say("EXISTS", "q:host:health-check") == ":1\r\n", "arq runs")
            await wait_until(lambda: sentinel.subscribers, "the events are subscribed")

            sentinel.promote(("127.0.0.1", other.port))

            await wait_until(lambda: other.say("EXISTS", "q:host:health-check") == ":1\r\n", "arq runs there", 20)
            assert "cmd=zrangebyscore" not in queue.say("CLIENT", "LIST")
            await stop(due_loop, running)


async def test_all_keys_of_arq_are_in_the_namespace(queue: Server) -> None:
    due_loop, _ = recorded(await build())
    names: set[str] = set()
    with redis.Redis.from_url(queue.url, decode_responses=True) as client:
        # The job runs for a moment only: its keys are seen by their notifications.
        client.config_set("notify-keyspace-events", "KA")
        events = client.pubsub()
        events.psubscribe("__keyspace@*__:*")
        running = asyncio.create_task(host_of(queue.url, due_loop, "ours:q").run())

        def seen() -> set[str]:
            while (message := events.get_message(ignore_subscribe_messages=True)) is not None:
                names.add(message["channel"].partition("__:")[2])
            return names

        await wait_until(lambda: any("in-progress" in name for name in seen()), "arq has started a job", 20)
        await wait_until(lambda: any("retry" in name or "job" in name for name in seen()), "arq has enqueued a job", 20)
    await stop(due_loop, running)

    assert {name for name in names if not name.startswith("ours:q")} == set()


async def test_restart_logs_no_exceeded_retries(queue: Server, caplog: pytest.LogCaptureFixture) -> None:
    """A killed scheduler leaves a started job in its queue."""
    job = "cron:tick:1"
    with redis.Redis.from_url(queue.url) as client:
        client.zadd("q:host", {job: time.time() * 1_000 - 60_000})
        client.set(f"q:retry:{job}", 1)
        client.set(f"q:job:{job}", '{"t":1,"f":"tick","a":[],"k":{},"et":1}')
    due_loop, _ = recorded(await build())
    host = host_of(queue.url, due_loop)
    running = asyncio.create_task(host.run())
    began_s = time.monotonic()

    await wait_until(lambda: host._last_tick_s > began_s + 1.2, "arq ticks twice", 20)
    await stop(due_loop, running)

    assert [record.getMessage() for record in caplog.records if record.name.startswith("arq")] == []


def a_job(claims: int = 0) -> Job:
    return Job(id="a", kind="flush", params={}, number=1, created_us=1, changed_us=1, claims=claims)


async def test_job_enqueued_twice_runs_once(queue: Server) -> None:
    """Two schedulers share the queue of jobs."""
    ran: list[str] = []

    async def run_job(job_id: str) -> None:
        ran.append(job_id)

    loops = [recorded(await build())[0] for _ in range(2)]
    hosts = [host_of(queue.url, each, run_job=run_job, process=str(n)) for n, each in enumerate(loops)]
    running = [asyncio.create_task(host.run()) for host in hosts]
    try:
        # First: otherwise the host that is connected earlier could run the job before the other enqueues it.
        await wait_until(lambda: all(host._connected for host in hosts), "arq is connected", 20)
        assert all(host.enqueue(a_job()) for host in hosts)
        await wait_until(lambda: ran, "the job runs", 20)
        for host in hosts:
            host.enqueue(a_job(claims=1))
        await wait_until(lambda: len(ran) > 1, "the job runs after another claim", 20)

        assert ran == ["a", "a"]
    finally:
        for due_loop, each in zip(loops, running, strict=True):
            await stop(due_loop, each)


async def test_running_job_goes_on_without_arq(queue: Server) -> None:
    started, may_end, ended = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def work() -> None:
        started.set()
        await may_end.wait()
        ended.set()

    working: list[asyncio.Task[None]] = []

    async def run_job(job_id: str) -> None:
        working.append(asyncio.create_task(work()))
        await asyncio.shield(working[0])

    due_loop, _ = recorded(await build())
    host = host_of(queue.url, due_loop, run_job=run_job)
    running = asyncio.create_task(host.run())
    await wait_until(lambda: host.enqueue(a_job()), "arq is connected")
    await asyncio.wait_for(started.wait(), 20)

    queue.kill()
    await wait_until(lambda: not host.enqueue(a_job()), "arq is not connected", 20)
    may_end.set()

    await asyncio.wait_for(ended.wait(), 10)
    await stop(due_loop, running)


@pytest.mark.timeout(30)
async def test_slow_ticks_finish_while_arq_is_silent() -> None:
    """The store recovers slowly while a tick is pending: asking for another one must not starve it."""
    due_loop, agenda = recorded(await build())
    is_quick = asyncio.Event()
    rounds, next_due_times = 0, agenda.next_due_times

    async def slow() -> Any:
        nonlocal rounds
        rounds += 1
        await is_quick.wait()
        return await next_due_times()

    agenda.next_due_times = slow  # type: ignore[method-assign]
    ticks = [asyncio.create_task(due_loop.tick()) for _ in range(2)]
    seconds, began_s = count(step=10), time.monotonic()
    host = host_of("redis://127.0.0.1:1/0", due_loop, monotonic=lambda: float(next(seconds)))
    running = asyncio.create_task(host.run())
    try:
        await wait_until(lambda: rounds, "the first tick runs")
        assert await asyncio.wait_for(ticks[1], 10) is False, "the running tick was extended"
        is_quick.set()
        await wait_until(lambda: rounds > 3, "rounds continue")
    finally:
        await stop(due_loop, running)
    assert await asyncio.wait_for(ticks[0], 10) is True
    assert time.monotonic() - began_s < 20, "the event loop was blocked until the test timeout"


@pytest.mark.parametrize(
    ("options", "checks"),
    [
        ("", True),
        ("?ssl_check_hostname=false", False),
        ("?ssl_check_hostname=true", True),
        ("?ssl_cert_reqs=none", False),
    ],
)
async def test_queue_connection_checks_host_names(options: str, checks: bool) -> None:
    client = _connect(f"rediss://:secret@queue.example/0{options}", "queue")

    assert client.connection_pool.make_connection().ssl_context.check_hostname is checks


async def test_queue_connection_passes_the_client_key(tmp_path: Path) -> None:
    pem = CertificateAuthority(tmp_path).issue("client", "localhost")
    client = _connect(f"rediss://queue.example/0?ssl_certfile={pem}&ssl_keyfile={pem}", "queue")

    context = client.connection_pool.make_connection().ssl_context

    assert (context.keyfile, context.certfile) == (str(pem), str(pem))


async def test_queue_connection_by_sentinels_passes_all_options(tmp_path: Path) -> None:
    pem = CertificateAuthority(tmp_path).issue("client", "localhost")
    url = f"rediss+sentinel://app:data@one,two/service/3?ssl_certfile={pem}&ssl_keyfile={pem}&sentinel_password=hush"

    connection = _connect_to_primary(url, "queue", "10.0.0.1", 6380).connection_pool.make_connection()

    assert (connection.host, connection.port, connection.db) == ("10.0.0.1", 6380, 3)
    assert (connection.username, connection.password) == ("app", "data")
    context = connection.ssl_context
    assert (context.keyfile, context.certfile, context.check_hostname) == (str(pem), str(pem), True)
