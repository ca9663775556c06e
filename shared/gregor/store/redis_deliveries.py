"""What is to be told, in streams of the queue Redis: one a channel; see ``agenda.Deliveries``."""

from __future__ import annotations

from collections.abc import Sequence

from gregor.core.intents import Intent

from .contract import Unavailable
from .keys import Keys
from .link import Connection, Link
from .replies import answers


class RedisDeliveries:
    """``agenda.Deliveries`` over one Redis-protocol server.

    An entry has the fields of ``Intent.fields``. ``most``: entries that a stream keeps, about; the oldest go.
    """

    def __init__(self, connection: Connection, keys: Keys, most: int) -> None:
        self._connection = connection
        self._keys = keys
        self._most = most

    async def hand_over(self, intents: Sequence[Intent]) -> None:
        """See ``agenda.Deliveries.hand_over``: all leave in one write."""
        await answers([self._connection.call(*self._command(intent)) for intent in intents])

    def _command(self, intent: Intent) -> list[str | int]:
        stream = self._keys.stream(intent.channel)
        fields = [part for pair in intent.fields().items() for part in pair]
        return ["XADD", stream, "MAXLEN", "~", self._most, "*", *fields]

    async def close(self) -> None:
        """Close the connection."""
        await self._connection.close()


async def open_deliveries(url: str, namespace: str, most: int) -> RedisDeliveries:
    """Connected. Raises ``Unavailable`` where the server cannot be reached."""
    link = Link(url)
    try:
        await link.open()
    except ConnectionError as trouble:
        await link.close()
        raise Unavailable(str(trouble)) from trouble
    return RedisDeliveries(link, Keys(namespace), most)
