"""Facts shared by all processes of a deployment: the number of partitions, the written format, the processes."""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import signal
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

from msgspec.structs import replace

from gregor import __version__
from gregor.core.errors import Problem
from gregor.core.formats import FORMAT, READS
from gregor.core.limits import SECOND_US
from gregor.redis.commands import RedisCommands, Script
from gregor.store.connections import ServerTime
from gregor.store.contract.store import Unavailable
from gregor.store.formats import (
    REGISTERED_S,
    DeploymentFormats,
    ProcessFormats,
    WrittenFormat,
    decode_process,
    own_formats,
    refusal,
    registered_s,
    upgrade_blocked,
)

from . import scripts
from .errors import StoreFull, result_of, results_of
from .keys import Keys
from .partitions import other_partitions

_log = logging.getLogger(__name__)

AGREE_RETRY_S: Final = 3.0
"""Pause between two attempts to agree while the server with the shared facts is unreachable."""


class RedisDeployment:
    """The shared facts of a deployment, in Redis."""

    def __init__(self, connection: RedisCommands, keys: Keys, *, allow_oom: bool = True) -> None:
        self._connection = connection
        self._keys = keys
        self._process = f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"
        self._write_format = scripts.load("deployment/write_format")
        # A process must be able to start while the server is full: without schedulers, nothing expires.
        self._register_process = scripts.load("deployment/register_process", flags="allow-oom" if allow_oom else "")
        self._written = READS[0]
        self._own: ProcessFormats | None = None
        self._renewal: asyncio.Task[None] | None = None
        self._agreement: asyncio.Task[None] | None = None
        self._now_us: Callable[[], int] | None = None
        self.server_time: ServerTime | None = None
        """The last reading of the clock of the server; ``None`` before the first one."""

    @property
    def all_scripts(self) -> tuple[Script, ...]:
        """The scripts of this part, for ``RedisStore.prepare``."""
        return (self._write_format, self._register_process)

    # ---- agreement at the start

    async def agree(self, service: str = "") -> None:
        """Store format and partitions of a new deployment, or check them. Raises ``ValueError`` with the fix.

        If several processes start a new deployment at once, the values of the first one are kept.
        ``service``: register this process as one of it (empty: do not).
        """
        try:
            await self._check()
            if service:
                self._own = self._own or own_formats(self._process, service, READS[0])
                await self._register()
                # Once more: a finish that did not see this process has changed what this process reads now.
                await self._check()
        except ValueError:
            await self._unregister()
            raise
        if self._own is not None:
            await self._use_format(self._written)

    async def _check(self) -> None:
        """Store format and partitions of a new deployment, or check them. Raises ``ValueError`` with the fix."""
        stored, written = await self.partitions(), await self.written_format()
        if stored is not None and written is None:
            # A process stores the format before the number of partitions, so this is the data of an older release.
            raise ValueError(
                f"the data in namespace {self._keys.namespace} was written by a version before the first release, "
                "without format bytes; use another GREGOR_NAMESPACE, or delete its keys"
            )
        if written is None:
            for name, value in (("release", __version__), ("oldest", FORMAT), ("written", FORMAT)):
                await result_of(self._connection.call("HSETNX", self._keys.formats, name, value))
            await result_of(self._connection.call("SET", self._keys.partitions, self._keys.partition_count, "NX"))
            stored, written = await self.partitions(), await self.written_format()
        if written is not None:
            self._written = written.number
            if problem := refusal(written):
                raise ValueError(problem)
        if stored is not None and stored != self._keys.partition_count:
            raise ValueError(other_partitions(stored, self._keys.partition_count))

    async def agree_now_or_later(self, service: str = "") -> None:
        """Agree. If the server with the shared facts is unreachable but another answers, or if it is full, try again
        every few seconds.

        Raises ``Unavailable`` if no server is connected, ``ValueError`` as ``agree``. A process that finds later that
        it does not agree ends with SIGTERM.
        """
        try:
            await self.agree(service)
        except Unavailable as error:
            nodes = self._connection.nodes
            is_partly_reached = len(nodes) > 1 and any(node.connected for node in nodes)
            if not is_partly_reached and not isinstance(error, StoreFull):
                raise
            _log.warning("deployment.agreement_postponed reason=%s retry_in_s=%s", error, AGREE_RETRY_S)
            self._agreement = asyncio.create_task(self._agree_later(service))

    async def _agree_later(self, service: str) -> None:
        while True:
            await asyncio.sleep(AGREE_RETRY_S)
            try:
                await self.agree(service)
            except Unavailable:
                continue
            except ValueError as error:
                _end_process(error)
            return

    async def partitions(self) -> int | None:
        """Return the number of partitions of the deployment; None before its first start."""
        stored = await result_of(self._connection.call("GET", self._keys.partitions))
        return None if stored is None else int(stored)

    async def written_format(self) -> WrittenFormat | None:
        """Return the written format of the deployment; None before its first start."""
        names = ("written", "release", "oldest", "finishing")
        number, release, oldest, mark = await result_of(self._connection.call("HMGET", self._keys.formats, *names))
        if number is None:
            return None
        finishing = int(mark.partition(b" ")[0]) if mark else 0
        return WrittenFormat(int(number), (release or b"?").decode(), int(oldest or 1), finishing)

    # ---- finishing an upgrade

    async def formats(self) -> DeploymentFormats:
        """See ``Deployment.formats``."""
        written = await self.written_format()
        return DeploymentFormats(written or WrittenFormat(FORMAT, __version__, FORMAT), await self.processes())

    async def finish_upgrade(self) -> DeploymentFormats:
        """See ``Deployment.finish_upgrade``.

        The keys of the written format and of the processes may be on different servers. A mark therefore replaces a
        transaction. A process registers, then reads the mark; a finish writes the mark, then reads the processes. At
        least one of them sees the other.
        """
        formats = await self.formats()
        number = formats.newest
        if formats.state == "blocked":
            raise upgrade_blocked(formats)
        if formats.state == "possible" or formats.written.finishing:
            mark = f"{number} {secrets.token_hex(8)}"
            await result_of(self._connection.call("HSET", self._keys.formats, "finishing", mark))
            formats = await self.formats()
            is_blocked = formats.newest != number or bool(formats.blocking)
            # A blocked finish writes the format that is written already, and so only removes its mark.
            if not await self._change_written(formats.written.number if is_blocked else number, mark):
                raise Problem("unavailable", "Another request finishes the upgrade now. Try again.", retry_after_s=1.0)
            if is_blocked:
                raise upgrade_blocked(formats)
            await self._follow_written()
            formats = await self.formats()
        return formats

    async def raise_oldest_format(self, number: int) -> None:
        """See ``Deployment.raise_oldest_format``."""
        written = await self.written_format()
        if written is not None and written.oldest < number:
            await result_of(self._connection.call("HSET", self._keys.formats, "oldest", number))

    async def _change_written(self, number: int, mark: str) -> bool:
        arguments = (str(number), __version__, mark)
        return bool(await result_of(self._connection.evalsha(self._write_format, (self._keys.formats,), arguments)))

    async def _follow_written(self) -> None:
        """Write the format that the deployment writes now. Raises ``ValueError`` if this release cannot read it."""
        written = await self.written_format()
        if written is None:
            return
        # A finish that is not complete counts only at the start: it sees this process, and is refused.
        if problem := refusal(replace(written, finishing=0)):
            raise ValueError(problem)
        if written.number < self._written:
            # A failover or a restored backup has lost the end of an upgrade.
            _log.warning("deployment.written_format_restored format=%d stored=%d", self._written, written.number)
            await self._change_written(self._written, "")
        elif written.number > self._written:
            await self._use_format(written.number)

    async def _use_format(self, number: int) -> None:
        """Write a format from now on, and register that."""
        self._written = number
        if self._own is not None and self._own.writes != number:
            before, self._own = self._own, own_formats(self._process, self._own.service, number)
            await self._register()
            await result_of(self._connection.call("ZREM", self._keys.processes, before.encode()))

    @property
    def written(self) -> int:
        """The format that this process writes."""
        return self._written

    # ---- running processes

    def start_registration(self, now_us: Callable[[], int]) -> None:
        """Register this process again every third of the TTL, and follow the written format, until ``close``.

        ``now_us``: the clock of this process, which is compared with that of the server.
        """
        self._now_us = now_us
        self._renewal = asyncio.create_task(self._renew())

    @property
    def own(self) -> ProcessFormats | None:
        """See ``Deployment.own``."""
        return self._own

    async def processes(self) -> list[ProcessFormats]:
        """Return the running processes of the deployment."""
        now_us = await self._server_time_us()
        found = await result_of(self._connection.call("ZRANGEBYSCORE", self._keys.processes, f"({now_us}", "+inf"))
        return [decode_process(raw) for raw in found]

    async def read_server_time(self) -> None:
        """Read the clock of the server (``server_time``). Raises ``Unavailable``."""
        await self._server_time_us()

    async def peers(self) -> list[str]:
        """Renew the lease of this process. Returns the ids of the running processes of its service."""
        # First, because a process whose registration waits for an unreachable shard needs the time too.
        now_us = await self._server_time_us()
        if self._own is None:
            return []
        reading = ("ZRANGEBYSCORE", self._keys.processes, f"({now_us}", "+inf")
        _, found = await results_of((self._registration(self._own, now_us), self._connection.call(*reading)))
        running = map(decode_process, found)
        return [each.process for each in running if each.service == self._own.service]

    @property
    def process(self) -> str:
        """The id of this process among those of the deployment."""
        return self._process

    async def _renew(self) -> None:
        while True:
            await asyncio.sleep(REGISTERED_S / 3)
            try:
                await self._register()
                await self._follow_written()
            except Unavailable as error:
                _log.info("process.registration_failed reason=%s", error)
            except ValueError as error:
                # The upgrade was finished while this process was not registered, for example because it hung.
                _end_process(error)
                return

    async def _register(self) -> None:
        if self._own is None:
            return
        own, now_us = self._own, await self._server_time_us()
        await result_of(self._registration(own, now_us))

    def _registration(self, own: ProcessFormats, now_us: int) -> asyncio.Future[Any]:
        until_us = now_us + registered_s(own.service) * SECOND_US
        arguments = (own.encode(), str(until_us), str(now_us), str(REGISTERED_S))
        return self._connection.evalsha(self._register_process, (self._keys.processes,), arguments)

    async def _unregister(self) -> None:
        own, self._own = self._own, None
        if own is not None:
            with suppress(Unavailable, ConnectionError):
                await result_of(self._connection.call("ZREM", self._keys.processes, own.encode()))

    async def _server_time_us(self) -> int:
        # The clocks of hosts may differ; that of the server is one for all.
        nodes = self._connection.nodes
        node = next((node for node in nodes if node.connected), next(iter(nodes), None))
        if node is None:
            raise Unavailable("no server is known")
        begun_s = time.monotonic()
        seconds, microseconds = await result_of(node.call("TIME"))
        ended_s = time.monotonic()
        server_us = int(seconds) * SECOND_US + int(microseconds)
        self.server_time = ServerTime(server_us, (begun_s + ended_s) / 2, (ended_s - begun_s) / 2)
        return server_us

    @property
    def clock_offset_s(self) -> float | None:
        """The clock of the server minus the clock of this process; ``None`` before it was read."""
        if self._now_us is None or self.server_time is None:
            return None
        return self.server_time.offset_s(self._now_us(), time.monotonic())

    async def close(self) -> None:
        """End the registration of this process, and attempts to agree."""
        for task in (self._agreement, self._renewal):
            if task is not None:
                task.cancel()
                with suppress(asyncio.CancelledError):
                    await task
        await self._unregister()


def _end_process(reason: ValueError) -> None:
    """Drain and end this process, as for any SIGTERM: it would misread what the others write."""
    _log.critical("deployment.disagreement reason=%s", reason)
    signal.raise_signal(signal.SIGTERM)
