"""The two arq workers of a scheduler (docs/explanation/time.md, "The queue").

The first has a queue for this process alone. Its cron job triggers the due loop every twenty seconds. The second shares
a queue with all schedulers, which gives each of Gregor's jobs (``gregor.jobs``) to one of them.

arq runs in a daemon thread with its own event loop. A queue Redis that hangs can therefore block neither due work nor
the stop of the process. arq holds no state worth keeping: its jobs can expire, and a failed job is never retried. Due
work is stored in the agendas of the state Redis, and jobs in records there.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, Final
from urllib.parse import parse_qs, urlsplit

import arq.connections
import arq.jobs
import arq.worker
import msgspec
import structlog
from arq import constants
from arq.connections import ArqRedis
from arq.cron import cron
from arq.typing import WorkerCoroutine
from arq.worker import func
from redis.exceptions import RedisError

from gregor.redis.address import UrlSource
from gregor.redis.sentinel import shared_watcher
from gregor.redis.url import RedisUrl
from gregor.store.jobs import Job

from .due_loop import DueLoop

_log = structlog.get_logger(__name__)

RESPONSE_TIMEOUT_S: Final = 5.0
JOB_TIMEOUT_S: Final = 15
TICK_S: Final = 20
"""Interval of the cron job. One run costs the queue Redis about twenty commands."""
POLL_S: Final = 2.5
"""Interval of arq's poll. A tick may be this late."""
SILENCE_S: Final = TICK_S + POLL_S + 0.5
"""A tick triggers the due loop for this time. Without another tick until then, the process triggers it itself."""
CHECK_S: Final = 0.25
"""Interval at which the thread looks whether the process stops, or the primary has changed."""
RESTART_S: Final = 5.0
QUEUE_TTL_S: Final = 3_600
JOB_POLL_S: Final = 2.0
"""Interval at which the worker of jobs polls. A job may begin this late."""
JOB_WATCHED_S: Final = 60.0
"""How long an arq job waits for the job of Gregor that it started. The job goes on afterwards: it has its own lease."""
MAX_WATCHED_JOBS: Final = 4
"""Arq jobs of one scheduler at the same time: other schedulers get the next ones."""
_TIMEOUTS: Final = {"socket_timeout": RESPONSE_TIMEOUT_S, "socket_connect_timeout": RESPONSE_TIMEOUT_S}
_TLS_OPTIONS: Final = frozenset({"ssl_ca_certs", "ssl_certfile", "ssl_keyfile", "ssl_cert_reqs"})
_encode: Final = msgspec.json.Encoder(enc_hook=repr).encode


class ArqHost:
    """Triggers the due loop: by ticks of arq while the queue Redis is available, else by itself. Distributes jobs.

    ``queues`` is the prefix of the arq queues. The one of the ticks ends with ``process``, which must be unique to this
    process: arq gives each cron run to one worker of a queue, and the other schedulers would stay idle. ``run_job``
    executes one of Gregor's jobs in the event loop of the process, until it ends or waits, also if its caller does not
    wait any longer.
    """

    def __init__(
        self,
        url: UrlSource,
        due_loop: DueLoop,
        queues: str,
        process: str,
        monotonic: Callable[[], float],
        run_job: Callable[[str], Coroutine[Any, Any, None]],
    ) -> None:
        self._url = url
        self._due_loop = due_loop
        self._monotonic = monotonic
        self._run_job = run_job
        self._prefix = queues
        self._tick_queue = f"{queues}:{process}"
        self._job_queue = f"{queues}:jobs"
        # The event loop and the client of arq, while it is connected.
        self._connected: tuple[asyncio.AbstractEventLoop, ArqRedis] | None = None
        # No tick yet: the process triggers the loop until arq does, which may take long if the queue Redis hangs.
        self._last_tick_s = float("-inf")

    @property
    def is_ticking(self) -> bool:
        """Whether arq triggers the due loop; otherwise ``run`` does."""
        return self._monotonic() - self._last_tick_s < SILENCE_S

    async def run(self) -> None:
        """Trigger the due loop until it is stopped."""
        worker = threading.Thread(target=self._run, args=[asyncio.get_running_loop()], daemon=True, name="arq")
        worker.start()
        # While arq ticks, this loop only sleeps.
        while not self._due_loop.is_stopping:
            silent_s = self._monotonic() - self._last_tick_s
            if silent_s < SILENCE_S:
                await asyncio.sleep(SILENCE_S - silent_s)
            elif not await self._due_loop.tick():
                # It runs already, and was extended.
                await asyncio.sleep(CHECK_S)

    def enqueue(self, job: Job) -> bool:
        """Enqueue a job for any scheduler, unless it is already enqueued. Returns whether arq is connected."""
        if self._connected is None:
            return False
        loop, client = self._connected
        # arq blocks an id for over a minute after its scheduler was killed. Each claim of a job therefore has another.
        adding = client.enqueue_job("job", job.id, _job_id=f"{job.id}:{job.claims}", _queue_name=self._job_queue)
        try:
            asyncio.run_coroutine_threadsafe(_log_failure(adding), loop)
        except RuntimeError:  # the loop of arq was closed meanwhile
            adding.close()
            return False
        return True

    def _run(self, process_loop: asyncio.AbstractEventLoop) -> None:
        """Run workers in this thread. arq ends a worker when its Redis fails; a new one follows after a pause."""
        while not self._due_loop.is_stopping:
            try:
                asyncio.run(self._work(process_loop))
            except Exception as error:
                _log.warning("arq.worker_failed", reason=f"{type(error).__name__}: {error}", retry_in_s=RESTART_S)
                time.sleep(RESTART_S)

    async def _work(self, process_loop: asyncio.AbstractEventLoop) -> None:
        """Run one worker until it fails, the due loop stops, or the Sentinels name another primary."""
        url = self._url if isinstance(self._url, str) else self._url()
        address = RedisUrl.parse(url)
        if address.service is None:
            await self._work_on(_connect(url, self._prefix), process_loop, lambda: True)
            return
        watcher = shared_watcher(address)
        try:
            primary = await watcher.locate(RESPONSE_TIMEOUT_S)
            client = _connect_to_primary(url, self._prefix, *primary)
            await self._work_on(client, process_loop, lambda: watcher.primary == primary)
        finally:
            await watcher.close()

    async def _work_on(
        self, client: ArqRedis, process_loop: asyncio.AbstractEventLoop, is_primary: Callable[[], bool]
    ) -> None:

        async def tick(ctx: dict[str, Any]) -> None:
            self._last_tick_s = self._monotonic()
            if not self._due_loop.is_stopping:
                # Not awaited: due work must continue when arq ends. A job that runs is also asked for by each poll.
                asyncio.run_coroutine_threadsafe(self._due_loop.tick(SILENCE_S), process_loop)
            with suppress(RedisError):
                await client.expire(self._tick_queue, QUEUE_TTL_S)

        async def run_job(ctx: dict[str, Any], job_id: str) -> None:
            started = asyncio.run_coroutine_threadsafe(self._run_job(job_id), process_loop)
            # The job goes on if this wait is cancelled, because arq ends, or takes too long.
            with suppress(TimeoutError):
                await asyncio.wait_for(asyncio.wrap_future(started), JOB_WATCHED_S)

        try:
            # A killed process leaves ticks, which arq would log as "max retries exceeded".
            await client.delete(self._tick_queue)
            ticks = _make_tick_worker(client, self._tick_queue, tick)
            jobs = _make_job_worker(client, self._job_queue, run_job)
            self._connected = asyncio.get_running_loop(), client
            working = [asyncio.create_task(worker.async_run()) for worker in (ticks, jobs)]
            while not any(each.done() for each in working) and not self._due_loop.is_stopping and is_primary():
                await asyncio.wait(working, timeout=CHECK_S, return_when=asyncio.FIRST_COMPLETED)
            # Jobs that stay behind would log a traceback when their event loop closes.
            tasks = [*working, *ticks.tasks.values(), *jobs.tasks.values()]
            for task in tasks:
                task.cancel()
            ends = await asyncio.gather(*tasks, return_exceptions=True)
            if error := next((end for end in ends[: len(working)] if isinstance(end, Exception)), None):
                raise error
        finally:
            self._connected = None
            with suppress(RedisError, OSError):
                await client.aclose()


async def _log_failure(adding: Coroutine[Any, Any, Any]) -> None:
    """Enqueue an arq job; log an unavailable queue Redis instead of raising."""
    try:
        await adding
    except (RedisError, OSError) as error:
        _log.warning("arq.enqueue_failed", reason=f"{type(error).__name__}: {error}")


def _make_tick_worker(client: ArqRedis, queue: str, tick: WorkerCoroutine) -> arq.worker.Worker:
    """Return a worker that calls ``tick`` every ``TICK_S`` seconds."""
    seconds = set(range(0, 60, TICK_S))
    job = cron(tick, name="tick", second=seconds, microsecond=0, run_at_startup=True, unique=False, keep_result=0)
    return _make_worker(client, queue, cron_jobs=[job], job_timeout=JOB_TIMEOUT_S, poll_delay=POLL_S)


def _make_job_worker(client: ArqRedis, queue: str, run_job: WorkerCoroutine) -> arq.worker.Worker:
    """Return a worker that executes the jobs in the queue of all schedulers."""
    job = func(run_job, name="job", timeout=JOB_WATCHED_S + JOB_TIMEOUT_S, keep_result=0)
    return _make_worker(client, queue, functions=[job], max_jobs=MAX_WATCHED_JOBS, poll_delay=JOB_POLL_S)


def _make_worker(client: ArqRedis, queue: str, **options: Any) -> arq.worker.Worker:
    """Return a worker that stores no results. JSON replaces arq's default, pickle."""
    return arq.worker.Worker(
        redis_pool=client,
        queue_name=queue,
        handle_signals=False,
        keep_result=0,
        job_serializer=_encode,
        job_deserializer=msgspec.json.decode,
        log_results=False,
        **options,
    )


def _connect(url: str, prefix: str) -> ArqRedis:
    """Return arq's client of a queue Redis at a fixed address."""
    options: dict[str, Any] = dict(_TIMEOUTS)
    address = RedisUrl.parse(url)
    if address.tls is not None:
        # redis-py checks no host name by default. Options of the URL, such as ssl_keyfile, are added by from_url.
        options["ssl_check_hostname"] = address.tls.check_hostname
    return _prepared(ArqRedis.from_url(url, **options), prefix)


def _connect_to_primary(url: str, prefix: str, host: str, port: int) -> ArqRedis:
    """Return arq's client of the server that the Sentinels of the URL name."""
    address = RedisUrl.parse(url).server(host, port)
    options: dict[str, Any] = dict(_TIMEOUTS)
    options |= {"host": host, "port": port, "db": address.db}
    options |= {"username": address.username, "password": address.password}
    if address.tls is not None:
        files = {name: values[-1] for name, values in parse_qs(urlsplit(url).query).items() if name in _TLS_OPTIONS}
        options |= {"ssl": True, **files, "ssl_check_hostname": address.tls.check_hostname}
    return _prepared(ArqRedis(**options), prefix)


def _prepared(client: ArqRedis, prefix: str) -> ArqRedis:
    """Set the encoding and the key prefixes."""
    _prefix_keys(prefix)
    client.job_serializer, client.job_deserializer = _encode, msgspec.json.decode
    return client


def _prefix_keys(prefix: str) -> None:
    """Put arq's keys below the prefix of the queues, and thereby into the namespace. arq has no setting for it."""
    for name in ("job_key_prefix", "in_progress_key_prefix", "result_key_prefix", "retry_key_prefix", "abort_jobs_ss"):
        prefixed = f"{prefix}:{getattr(constants, name).removeprefix('arq:')}"
        for module in (arq.worker, arq.connections, arq.jobs):
            if hasattr(module, name):
                setattr(module, name, prefixed)
