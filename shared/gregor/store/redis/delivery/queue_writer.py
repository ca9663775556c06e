"""The writing side of the delivery queues in Redis: one stream for each channel."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from gregor.core.notify.intents import Intent
from gregor.redis.address import UrlSource
from gregor.redis.client import RedisClient
from gregor.redis.commands import RedisCommands
from gregor.store.contract.store import Unavailable
from gregor.store.redis import scripts
from gregor.store.redis.errors import results_of
from gregor.store.redis.keys import Keys

from .queue_reader import encode_intent


class RedisQueueWriter:
    """``DeliveryQueueWriter`` over one Redis-protocol server.

    An entry has the fields of ``Intent.fields``. A stream with ``most`` entries is full and refuses more
    (backpressure).
    """

    def __init__(self, connection: RedisCommands, keys: Keys, most: int) -> None:
        self._connection = connection
        self._keys = keys
        self._most = most
        self._enqueue_script = scripts.load("queue/enqueue")

    async def enqueue(self, intents: Sequence[Intent], at_us: int = 0) -> list[Intent]:
        """See ``DeliveryQueueWriter.enqueue``. All commands leave in one write."""
        if at_us:
            await results_of(
                self._connection.call("ZADD", self._keys.waiting(intent.channel), at_us, encode_intent(intent))
                for intent in intents
            )
            return []
        appended = await results_of(self._append(intent) for intent in intents)
        return [intent for intent, is_appended in zip(intents, appended, strict=True) if not is_appended]

    async def remove_waiting(self, intents: Sequence[Intent]) -> None:
        """See ``DeliveryQueueWriter.remove_waiting``. An intent is found by all its fields."""
        await results_of(
            self._connection.call("ZREM", self._keys.waiting(intent.channel), encode_intent(intent))
            for intent in intents
        )

    def _append(self, intent: Intent) -> asyncio.Future[Any]:
        fields = [part for pair in intent.fields().items() for part in pair]
        stream = self._keys.stream(intent.channel)
        return self._connection.evalsha(self._enqueue_script, (stream,), (str(self._most), *fields))

    async def close(self) -> None:
        """Close the connection."""
        await self._connection.close()


async def open_queue_writer(
    url: UrlSource, namespace: str, most: int, *, max_wait_s: float = 2.0, timeout_s: float = 5.0
) -> RedisQueueWriter:
    """Return a connected queue writer. Raises ``Unavailable``. The times are those of ``RedisClient``."""
    client = RedisClient(url, max_wait_s=max_wait_s, timeout_s=timeout_s)
    try:
        await client.open()
    except ConnectionError as error:
        await client.close()
        raise Unavailable(str(error)) from error
    return RedisQueueWriter(client, Keys(namespace), most)
