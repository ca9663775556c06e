"""The host of the drain: an arq worker whose cron says each second that it is time. It may die; what is due does not.

Nothing that must not be lost lives in an arq job: its data expires, an exception or a time-out of a job is final, and a
stopped Redis ends the worker (that is why it is supervised here). What is due stands in the agendas of the state Redis;
a tick only says "look".

arq's cron is unique by default: of all workers of one queue only one gets each run, which would leave the others idle,
and leave a tick to whoever died with it. So each scheduler has a queue of its own and ``unique=False``, and runs every
tick itself. Queues are named after host and port, and expire an hour after their scheduler is gone.

A queue Redis that stands still, its connections open, stops arq without a word until it has waited long enough for an
answer. So whoever hosts the worker listens: where no tick comes, the drain is told the time from here, and a worker
that says nothing for long is started anew.
"""

from __future__ import annotations

import asyncio
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
from arq.connections import ArqRedis, RedisSettings, create_pool
from arq.cron import cron
from arq.worker import Worker
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError

from gregor.redis.url import RedisUrl

from .due_loop import Drain

_log = structlog.get_logger(__name__)

TICK_TIMEOUT_S: Final = 15
"""A job that takes longer is cancelled: the queue does not answer."""
POLL_S: Final = 0.25
"""How often arq looks whether a tick is due: the drain goes on until the next one, so this costs no lateness."""
QUEUE_LIFE_S: Final = 3_600
HEALTH_S: Final = 10
FIRST_PAUSE_S: Final = 0.5
LONGEST_PAUSE_S: Final = 10.0
STEADY_S: Final = 30.0
"""A worker that ran so long before it ended is started again with the first pause."""
QUIET_S: Final = 1.5
"""After so long without a tick of arq the drain is told the time from here: half a second after it should have come."""
HUNG_S: Final = 20.0
"""After so long without a tick a worker is ended and another one started."""
CONNECT_S: Final = 5.0
ANSWER_S: Final = 5.0
"""How long arq waits for an answer of the queue."""
CANCEL_AGAIN_S: Final = 0.1
ENDING_S: Final = 1.0
"""How long the end of a worker waits for each thing that it still tells the queue."""


_as_json: Final = msgspec.json.Encoder(enc_hook=repr).encode  # arq has an exception for a result at times


async def tick(ctx: dict[str, Any]) -> None:
    """The cron job: let the drain run until the next tick. A worker that ends in the meantime takes no time from it."""
    ctx["heard"]()
    await asyncio.shield(ctx["drain"].tick())
    with suppress(RedisError):  # the next tick does it; that the queue is away is told by whoever hosts the worker
        await ctx["redis"].expire(ctx["queue"], QUEUE_LIFE_S)


def redis_settings(url: str) -> RedisSettings:
    """What arq needs to know of the queue Redis: a plain server, or the primary that Sentinels know."""
    address = RedisUrl.parse(url)
    options = {name: values[-1] for name, values in parse_qs(urlsplit(url).query).items() if name.startswith("ssl_")}
    settings = RedisSettings(
        unix_socket_path=address.path,
        database=address.db,
        username=address.username,
        password=address.password,
        ssl=address.tls is not None,
        conn_retries=0,
        sentinel=address.service is not None,
        ssl_ca_certs=options.get("ssl_ca_certs"),
        ssl_certfile=options.get("ssl_certfile"),
        ssl_cert_reqs=options.get("ssl_cert_reqs", "required"),
        ssl_check_hostname=options.get("ssl_check_hostname", "") == "true",
    )
    if address.service is not None:
        settings.host, settings.sentinel_master = list(address.hosts), address.service
    elif address.hosts:
        settings.host, settings.port = address.hosts[0]
    return settings


def make_worker(pool: ArqRedis, drain: Drain, queue: str, heard: Callable[[], None]) -> Worker:
    """The arq worker of this process. ``heard`` is called at each tick."""
    _name_keys(queue)
    every_second = cron(
        tick,
        name="tick",
        second=set(range(60)),
        microsecond=0,
        run_at_startup=True,
        unique=False,
        timeout=TICK_TIMEOUT_S,
        keep_result=0,
        max_tries=1,
    )
    return Worker(
        cron_jobs=[every_second],
        redis_pool=pool,
        queue_name=queue,
        ctx={"drain": drain, "queue": queue, "heard": heard},
        handle_signals=False,
        job_timeout=TICK_TIMEOUT_S,
        keep_result=0,
        poll_delay=POLL_S,
        health_check_interval=HEALTH_S,
        job_serializer=_as_json,
        job_deserializer=msgspec.json.decode,
        log_results=False,
    )


def _name_keys(queue: str) -> None:
    """Let the names of arq's keys begin with the queue's, for which arq has no setting: whoever shares a Redis, or
    lets us at keys of the namespace alone, relies on it (protocol.md, NAMESPACE)."""
    for name in ("job_key_prefix", "in_progress_key_prefix", "result_key_prefix", "retry_key_prefix", "abort_jobs_ss"):
        ours = f"{queue}:{getattr(constants, name).removeprefix('arq:')}"
        for module in (arq.worker, arq.connections, arq.jobs):
            if hasattr(module, name):
                setattr(module, name, ours)


class Host:
    """Runs a worker, and another one when it ends or hangs. While none ticks the drain is told the time from here."""

    def __init__(self, settings: RedisSettings, drain: Drain, queue: str, monotonic: Callable[[], float]) -> None:
        self._settings = settings
        self._drain = drain
        self._queue = queue
        self._monotonic = monotonic
        self._heard_s = monotonic()

    async def run(self) -> None:
        """Until cancelled."""
        async with asyncio.TaskGroup() as both:
            both.create_task(self._keep_a_worker())
            both.create_task(self._tick_where_none_does())

    async def _keep_a_worker(self) -> None:
        pause_s = FIRST_PAUSE_S
        while True:
            began_s = self._monotonic()
            try:
                await self._work()
                reason = "it ended"
            except Exception as error:
                reason = f"{type(error).__name__}: {error}"
            if self._monotonic() - began_s >= STEADY_S:
                pause_s = FIRST_PAUSE_S
            _log.warning("arq cannot use the queue Redis; it starts again.", reason=reason, in_s=pause_s)
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)

    async def _tick_where_none_does(self) -> None:
        """The state Redis may be well while the queue is not: what is due goes on, until the drain is told to stop."""
        while not self._drain.is_stopping:
            max_wait_s = QUIET_S - self._silence_s()
            if max_wait_s > 0:
                await asyncio.sleep(max_wait_s)
                continue
            try:
                if not await self._drain.tick():
                    # Two ticks are there, and slow. Without a pause nothing else would ever run again, they included.
                    await asyncio.sleep(POLL_S)
            except Exception:
                _log.exception("A tick failed.")
                await asyncio.sleep(1.0)

    def _silence_s(self) -> float:
        return self._monotonic() - self._heard_s

    def _hear(self) -> None:
        self._heard_s = self._monotonic()

    async def _connect(self) -> ArqRedis:
        async with asyncio.timeout(CONNECT_S):
            pool = await create_pool(
                self._settings,
                job_serializer=_as_json,
                job_deserializer=msgspec.json.decode,
                default_queue_name=self._queue,
            )
            # arq has no setting for this, and made a connection without: redis-py would wait for ever.
            connections = pool.connection_pool
            connections.connection_kwargs["socket_timeout"] = ANSWER_S
            connections.connection_class = _mortal(connections.connection_class)
            await connections.disconnect()
            connections.reset()  # type: ignore[no-untyped-call]
        return pool

    async def _work(self) -> None:
        pool = await self._connect()
        worker = make_worker(pool, self._drain, self._queue, self._hear)
        working = asyncio.create_task(worker.async_run())
        began_s = self._monotonic()
        try:
            while not working.done():
                await asyncio.wait([working], timeout=1.0)
                if min(self._silence_s(), self._monotonic() - began_s) > HUNG_S:
                    raise TimeoutError(f"no tick for {HUNG_S:g} s")
            working.result()
        finally:
            while not working.done():
                # Not once: of a cancel that comes over a command, redis-py and arq lose some, and the worker goes on.
                working.cancel()
                await asyncio.wait([working], timeout=CANCEL_AGAIN_S)
            await _end(worker, pool)


def _mortal(base: type[AbstractConnection]) -> type[AbstractConnection]:
    """The connections of one pool: once it ``is_over``, none is made any more that nobody would close."""

    class Mortal(base):  # type: ignore[valid-type, misc]
        """A connection that is not made where its worker has ended."""

        is_over = False

        async def connect(self) -> None:
            if not self.is_over:
                await super().connect()
            if self.is_over:
                await self.disconnect(nowait=True)
                raise RedisConnectionError("the worker has ended")

    return Mortal


async def _end(worker: Worker, pool: ArqRedis) -> None:
    """Leave nothing running. (``Worker.close`` raises what its cancelled jobs raise, before it closes anything.)

    A job that is cancelled still tells the queue, shielded, and over a new connection where it lost its own: nobody
    waits for that where the queue stands still; it ends without its answer, and gets no new connection.
    """
    tasks = [*worker.tasks.values(), *([worker.main_task] if worker.main_task is not None else [])]
    for task in tasks:
        task.cancel()
        task.add_done_callback(lambda ended: ended.cancelled() or ended.exception())
    if tasks:
        await asyncio.wait(tasks, timeout=ENDING_S)
    with suppress(Exception):
        async with asyncio.timeout(ENDING_S):
            await pool.delete(worker.health_check_key)
    pool.connection_pool.connection_class.is_over = True  # type: ignore[attr-defined]
    with suppress(Exception):
        async with asyncio.timeout(ENDING_S):
            await pool.aclose(close_connection_pool=True)
