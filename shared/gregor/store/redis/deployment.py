"""Facts shared by all processes of a deployment: the number of partitions, the written format, the processes."""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import signal
import socket
from contextlib import suppress
from typing import Any, Final

from gregor import __version__
from gregor.core.formats import FORMAT
from gregor.core.limits import SECOND_US
from gregor.redis.commands import RedisCommands
from gregor.store.contract.store import Unavailable
from gregor.store.formats import (
    REGISTERED_S,
    ProcessFormats,
    WrittenFormat,
    decode_process,
    own_formats,
    refusal,
    registered_s,
)

from .errors import result_of, results_of
from .keys import Keys
from .partitions import other_partitions

_log = logging.getLogger(__name__)

AGREE_RETRY_S: Final = 3.0
"""Pause between two attempts to agree while the server with the shared facts is unreachable."""


class RedisDeployment:
    """The shared facts of a deployment, in Redis."""

    def __init__(self, connection: RedisCommands, keys: Keys) -> None:
        self._connection = connection
        self._keys = keys
        self._process = f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"
        self._written = FORMAT
        self._own: ProcessFormats | None = None
        self._renewal: asyncio.Task[None] | None = None
        self._agreement: asyncio.Task[None] | None = None

    # ---- agreement at the start

    async def agree(self) -> None:
        """Store format and partitions of a new deployment, or check them. Raises ``ValueError`` with the fix.

        If several processes start a new deployment at once, the values of the first one are kept.
        """
        stored, written = await self.partitions(), await self.written_format()
        if stored is not None and written is None:
            # A process stores the format before the number of partitions, so this is the data of an older release.
            raise ValueError(
                f"the data in namespace {self._keys.namespace} was written by a version before the first release, "
                "without format bytes; use another GREGOR_NAMESPACE, or delete its keys"
            )
        if written is None:
            await result_of(self._connection.call("HSETNX", self._keys.formats, "release", __version__))
            await result_of(self._connection.call("HSETNX", self._keys.formats, "written", FORMAT))
            await result_of(self._connection.call("SET", self._keys.partitions, self._keys.partition_count, "NX"))
            stored, written = await self.partitions(), await self.written_format()
        if written is not None:
            self._written = written.number
            if problem := refusal(written):
                raise ValueError(problem)
        if stored is not None and stored != self._keys.partition_count:
            raise ValueError(other_partitions(stored, self._keys.partition_count))

    async def agree_now_or_later(self) -> None:
        """Agree. If the server with the shared facts is unreachable but another answers, try again every few seconds.

        Raises ``Unavailable`` if no server is connected, ``ValueError`` as ``agree``. A process that finds later that
        it does not agree ends with SIGTERM.
        """
        try:
            await self.agree()
        except Unavailable as error:
            if len(self._connection.nodes) < 2 or not any(node.connected for node in self._connection.nodes):
                raise
            _log.warning("deployment.agreement_postponed reason=%s retry_in_s=%s", error, AGREE_RETRY_S)
            self._agreement = asyncio.create_task(self._agree_later())

    async def _agree_later(self) -> None:
        while True:
            await asyncio.sleep(AGREE_RETRY_S)
            try:
                await self.agree()
            except Unavailable:
                continue
            except ValueError as error:
                _log.critical("deployment.disagreement reason=%s", error)
                # Users would be searched in the wrong partition. The process drains and ends, as for any SIGTERM.
                signal.raise_signal(signal.SIGTERM)
            return

    async def partitions(self) -> int | None:
        """Return the number of partitions of the deployment; None before its first start."""
        stored = await result_of(self._connection.call("GET", self._keys.partitions))
        return None if stored is None else int(stored)

    async def written_format(self) -> WrittenFormat | None:
        """Return the written format of the deployment; None before its first start."""
        number, release = await result_of(self._connection.call("HMGET", self._keys.formats, "written", "release"))
        return None if number is None else WrittenFormat(int(number), (release or b"?").decode())

    # ---- running processes

    def start_registration(self, service: str) -> None:
        """Register this process now, and again every third of the TTL, until ``close``."""
        self._own = own_formats(self._process, service, self._written)
        self._renewal = asyncio.create_task(self._renew(self._own))

    async def processes(self) -> list[ProcessFormats]:
        """Return the running processes of the deployment."""
        now_us = await self._server_time_us()
        found = await result_of(self._connection.call("ZRANGEBYSCORE", self._keys.processes, f"({now_us}", "+inf"))
        return [decode_process(raw) for raw in found]

    async def peers(self) -> list[str]:
        """Renew the lease of this process. Returns the ids of the running processes of its service."""
        if self._own is None:
            return []
        now_us, key = await self._server_time_us(), self._keys.processes
        until_us = now_us + registered_s(self._own.service) * SECOND_US
        renewal = self._connection.call("ZADD", key, until_us, self._own.encode())
        _, found = await results_of((renewal, self._connection.call("ZRANGEBYSCORE", key, f"({now_us}", "+inf")))
        running = map(decode_process, found)
        return [each.process for each in running if each.service == self._own.service]

    @property
    def process(self) -> str:
        """The id of this process among those of the deployment."""
        return self._process

    async def _renew(self, own: ProcessFormats) -> None:
        document = own.encode()
        try:
            while True:
                try:
                    await self._register(document, registered_s(own.service))
                except Unavailable as error:
                    _log.info("process.registration_failed reason=%s", error)
                await asyncio.sleep(REGISTERED_S / 3)
        finally:
            with suppress(Unavailable, ConnectionError):
                await result_of(self._connection.call("ZREM", self._keys.processes, document))

    async def _register(self, document: bytes, lease_s: int) -> None:
        now_us = await self._server_time_us()
        key, until_us = self._keys.processes, now_us + lease_s * SECOND_US
        commands: tuple[tuple[Any, ...], ...] = (
            ("ZADD", key, until_us, document),
            ("ZREMRANGEBYSCORE", key, "-inf", now_us),
            ("EXPIRE", key, REGISTERED_S),
        )
        await results_of(self._connection.call(*command) for command in commands)

    async def _server_time_us(self) -> int:
        # The clocks of hosts may differ; that of the server is one for all.
        nodes = self._connection.nodes
        node = next((node for node in nodes if node.connected), next(iter(nodes), None))
        if node is None:
            raise Unavailable("no server is known")
        seconds, microseconds = await result_of(node.call("TIME"))
        return int(seconds) * SECOND_US + int(microseconds)

    async def close(self) -> None:
        """End the registration of this process, and attempts to agree."""
        for task in (self._agreement, self._renewal):
            if task is not None:
                task.cancel()
                with suppress(asyncio.CancelledError):
                    await task
