"""The arq worker whose cron job triggers the due loop every ten seconds (docs/explanation/time.md).

arq runs in a daemon thread with its own event loop. A queue Redis that hangs can therefore block neither due work nor
the stop of the process. arq holds no state worth keeping: its jobs can expire, and a failed job is never retried. Due
work is stored in the agendas of the state Redis.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
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
from redis.exceptions import RedisError

from gregor.redis.address import UrlSource
from gregor.redis.sentinel import shared_watcher
from gregor.redis.url import RedisUrl

from .due_loop import DueLoop

_log = structlog.get_logger(__name__)

RESPONSE_TIMEOUT_S: Final = 5.0
JOB_TIMEOUT_S: Final = 15
TICK_S: Final = 10
"""Interval of the cron job. One run costs the queue Redis about twenty commands."""
POLL_S: Final = 2.5
"""Interval of arq's poll. A tick may be this late."""
SILENCE_S: Final = TICK_S + POLL_S + 0.5
"""A tick triggers the due loop for this time. Without another tick until then, the process triggers it itself."""
CHECK_S: Final = 0.25
"""Interval at which the thread looks whether the process stops, or the primary has changed."""
RESTART_S: Final = 5.0
QUEUE_TTL_S: Final = 3_600
_TIMEOUTS: Final = {"socket_timeout": RESPONSE_TIMEOUT_S, "socket_connect_timeout": RESPONSE_TIMEOUT_S}
_TLS_OPTIONS: Final = frozenset({"ssl_ca_certs", "ssl_certfile", "ssl_keyfile", "ssl_cert_reqs"})
_encode: Final = msgspec.json.Encoder(enc_hook=repr).encode


class ArqHost:
    """Keeps a due loop running, by ticks of arq while the queue Redis is available, else by itself.

    ``queue`` is the name of the arq queue and must be unique to this process: arq gives each cron run to one worker of
    a queue, and the other schedulers would stay idle.
    """

    def __init__(self, url: UrlSource, due_loop: DueLoop, queue: str, monotonic: Callable[[], float]) -> None:
        self._url, self._due_loop, self._queue, self._monotonic = url, due_loop, queue, monotonic
        # No tick yet: the process triggers the loop until arq does, which may take long if the queue Redis hangs.
        self._last_tick_s = float("-inf")

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
            await self._work_on(_connect(url, self._queue), process_loop, lambda: True)
            return
        watcher = shared_watcher(address)
        try:
            primary = await watcher.locate(RESPONSE_TIMEOUT_S)
            client = _connect_to_primary(url, self._queue, *primary)
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
                await client.expire(self._queue, QUEUE_TTL_S)

        try:
            # A killed process leaves jobs, which arq would log as "max retries exceeded".
            await client.delete(self._queue)
            worker = _make_worker(client, self._queue, tick)
            working = asyncio.create_task(worker.async_run())
            while not working.done() and not self._due_loop.is_stopping and is_primary():
                await asyncio.wait([working], timeout=CHECK_S)
            # Jobs that stay behind would log a traceback when their event loop closes.
            tasks = [working, *worker.tasks.values()]
            for task in tasks:
                task.cancel()
            error, *_ = await asyncio.gather(*tasks, return_exceptions=True)
            if isinstance(error, Exception):
                raise error
        finally:
            with suppress(RedisError, OSError):
                await client.aclose()


def _make_worker(client: ArqRedis, queue: str, tick: WorkerCoroutine) -> arq.worker.Worker:
    """Return a worker that calls ``tick`` every ``TICK_S`` seconds. JSON replaces arq's default, pickle."""
    seconds = set(range(0, 60, TICK_S))
    job = cron(tick, name="tick", second=seconds, microsecond=0, run_at_startup=True, unique=False, keep_result=0)
    return arq.worker.Worker(
        cron_jobs=[job],
        redis_pool=client,
        queue_name=queue,
        handle_signals=False,
        job_timeout=JOB_TIMEOUT_S,
        keep_result=0,
        poll_delay=POLL_S,
        job_serializer=_encode,
        job_deserializer=msgspec.json.decode,
        log_results=False,
    )


def _connect(url: str, queue: str) -> ArqRedis:
    """Return arq's client of a queue Redis at a fixed address."""
    options: dict[str, Any] = dict(_TIMEOUTS)
    address = RedisUrl.parse(url)
    if address.tls is not None:
        # redis-py checks no host name by default. Options of the URL, such as ssl_keyfile, are added by from_url.
        options["ssl_check_hostname"] = address.tls.check_hostname
    return _prepared(ArqRedis.from_url(url, **options), queue)


def _connect_to_primary(url: str, queue: str, host: str, port: int) -> ArqRedis:
    """Return arq's client of the server that the Sentinels of the URL name."""
    address = RedisUrl.parse(url).server(host, port)
    options: dict[str, Any] = dict(_TIMEOUTS)
    options |= {"host": host, "port": port, "db": address.db}
    options |= {"username": address.username, "password": address.password}
    if address.tls is not None:
        files = {name: values[-1] for name, values in parse_qs(urlsplit(url).query).items() if name in _TLS_OPTIONS}
        options |= {"ssl": True, **files, "ssl_check_hostname": address.tls.check_hostname}
    return _prepared(ArqRedis(**options), queue)


def _prepared(client: ArqRedis, queue: str) -> ArqRedis:
    """Set the encoding and the key prefixes."""
    _prefix_keys(queue)
    client.job_serializer, client.job_deserializer = _encode, msgspec.json.decode
    return client


def _prefix_keys(queue: str) -> None:
    """Put arq's keys below the name of the queue, and thereby into the namespace. arq has no setting for it."""
    for name in ("job_key_prefix", "in_progress_key_prefix", "result_key_prefix", "retry_key_prefix", "abort_jobs_ss"):
        prefixed = f"{queue}:{getattr(constants, name).removeprefix('arq:')}"
        for module in (arq.worker, arq.connections, arq.jobs):
            if hasattr(module, name):
                setattr(module, name, prefixed)
