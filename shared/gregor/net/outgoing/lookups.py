"""Lookups of host names in threads. A silent name server holds one thread, and delays no other lookup."""

from __future__ import annotations

import asyncio
import socket
import threading
from concurrent.futures import Future
from functools import partial
from typing import Any, Final, TypeAlias

import uvloop

MAX_LOOKUPS: Final = 160
"""Lookups at once of a service for names that only its operator can choose. They have a few names."""

Addresses: TypeAlias = list[Any]
"""The result of ``socket.getaddrinfo``."""


class Lookups:
    """Lookups under way. Those of the same name share one thread.

    An executor would not do: other lookups, and the end of the process, would wait for its threads.
    """

    def __init__(self) -> None:
        self._under_way: dict[tuple[Any, ...], asyncio.Future[Addresses]] = {}

    def __len__(self) -> int:
        return len(self._under_way)

    async def find(self, host: str, port: int | str, most: int | None, *arguments: int) -> Addresses:
        """Return the addresses of a host. A cancelled lookup goes on, and ends unnoticed.

        Raises OSError, UnicodeError for an invalid name, and RuntimeError if no thread can be started.

        Args:
            most: How many lookups may be under way; OSError if there are more. ``None``: any number.
            arguments: Family, type, protocol and flags, as for ``socket.getaddrinfo``.
        """
        name = (host, port, *arguments)
        lookup = self._under_way.get(name)
        if lookup is None:
            if most is not None and len(self) >= most:
                raise OSError("too many lookups")
            found = Future[Addresses]()
            threading.Thread(target=_resolve, args=(name, found), name="resolver", daemon=True).start()
            lookup = self._under_way[name] = asyncio.wrap_future(found)
            lookup.add_done_callback(partial(self._end, name))
        return await asyncio.shield(lookup)

    def _end(self, name: tuple[Any, ...], lookup: asyncio.Future[Addresses]) -> None:
        del self._under_way[name]
        if not lookup.cancelled():
            lookup.exception()  # all callers that waited for it may have been cancelled


class ServiceLoop(uvloop.Loop):
    """The event loop of a service. Its ``getaddrinfo`` uses ``Lookups``.

    uvloop looks up two names at once, also for callers that have given up. So the HTTP clients, which call
    ``getaddrinfo``, could stop all connections by name. uvloop itself looks up the names of APNs, mail relay and Redis.
    """

    def __init__(self) -> None:
        super().__init__()
        self._lookups = Lookups()

    async def getaddrinfo(
        self, host: Any, port: Any, *, family: int = 0, type: int = 0, proto: int = 0, flags: int = 0
    ) -> Addresses:
        """See ``asyncio.AbstractEventLoop.getaddrinfo``. Raises OSError if ``MAX_LOOKUPS`` are under way."""
        if isinstance(host, bytes):
            host = host.decode("ascii")
        return await self._lookups.find(host, port, MAX_LOOKUPS, family, type, proto, flags)


def _resolve(name: tuple[Any, ...], found: Future[Addresses]) -> None:
    try:
        found.set_result(socket.getaddrinfo(*name))
    except Exception as error:
        found.set_exception(error)
