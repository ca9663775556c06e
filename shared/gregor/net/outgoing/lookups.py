"""Lookups of host names in threads. A name server that does not answer holds one thread, and delays no other lookup."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections import Counter
from concurrent.futures import Future
from functools import partial
from typing import Any, Final, TypeAlias

import uvloop

MAX_SERVICE_LOOKUPS: Final = 160
"""Concurrent lookups of a service for names that only its operator can choose. There are few such names."""

MAX_FAMILY_ADDRESSES: Final = 8
"""Most addresses of a host that are used, for IPv4 and IPv6 each. A name server can answer with 4,000.

anyio starts a connection to each of them: that took 14 s of CPU time and 0.5 GB."""

Addresses: TypeAlias = list[Any]
"""The result of ``socket.getaddrinfo``, with at most ``MAX_FAMILY_ADDRESSES`` of each family."""


class Lookups:
    """Lookups in progress, with one thread for each name.

    With an executor, other lookups and the end of the process would wait for its threads.
    """

    def __init__(self) -> None:
        self._in_progress: dict[tuple[Any, ...], asyncio.Future[Addresses]] = {}

    def __len__(self) -> int:
        return len(self._in_progress)

    async def find(self, host: str, port: int | str, max_lookups: int | None, *arguments: int) -> Addresses:
        """Return the addresses of a host. If the caller is cancelled, the lookup goes on: other callers may share it.

        Raises OSError, UnicodeError for an invalid name, and RuntimeError if no thread can be started.

        Args:
            max_lookups: How many may be in progress, including this one; OSError above it. ``None``: any number.
            arguments: Family, type, protocol and flags, as for ``socket.getaddrinfo``.
        """
        name = (host, port, *arguments)
        lookup = self._in_progress.get(name)
        if lookup is None:
            if max_lookups is not None and len(self) >= max_lookups:
                raise OSError("too many lookups")
            found = Future[Addresses]()
            threading.Thread(target=_resolve, args=(name, found), name="resolver", daemon=True).start()
            lookup = self._in_progress[name] = asyncio.wrap_future(found)
            lookup.add_done_callback(partial(self._end, name))
        return await asyncio.shield(lookup)

    def _end(self, name: tuple[Any, ...], lookup: asyncio.Future[Addresses]) -> None:
        del self._in_progress[name]
        if not lookup.cancelled():
            lookup.exception()  # all callers that waited for it may have been cancelled


class ServiceLoop(uvloop.Loop):
    """The event loop of a service. Its ``getaddrinfo`` uses ``Lookups``.

    uvloop looks up at most two names at once, also for callers that have given up. Two HTTP clients whose name servers
    do not answer would stop all lookups. uvloop still looks up the names of APNs, the mail relay and Redis.
    """

    def __init__(self) -> None:
        super().__init__()
        self._lookups = Lookups()

    async def getaddrinfo(
        self, host: Any, port: Any, *, family: int = 0, type: int = 0, proto: int = 0, flags: int = 0
    ) -> Addresses:
        """See ``asyncio.AbstractEventLoop.getaddrinfo``.

        Raises only OSError, which its callers handle: also for an invalid name, above ``MAX_SERVICE_LOOKUPS``, and if
        no thread can be started.
        """
        try:
            name = host.decode("ascii") if isinstance(host, bytes) else host
            return await self._lookups.find(name, port, MAX_SERVICE_LOOKUPS, family, type, proto, flags)
        except UnicodeError as error:
            raise socket.gaierror(socket.EAI_NONAME, f"{host!r} is not a valid host name") from error
        except RuntimeError as error:
            raise socket.gaierror(socket.EAI_AGAIN, "no thread can be started for the lookup") from error


def _resolve(name: tuple[Any, ...], found: Future[Addresses]) -> None:
    try:
        found.set_result(_first_of_each_family(socket.getaddrinfo(*name)))
    except Exception as error:
        found.set_exception(error)


def _first_of_each_family(addresses: Addresses) -> Addresses:
    """Return the first ``MAX_FAMILY_ADDRESSES`` of each family, in their order: some hosts have only one family."""
    counts: Counter[int] = Counter()
    first = []
    for address in addresses:
        counts[address[0]] += 1
        if counts[address[0]] <= MAX_FAMILY_ADDRESSES:
            first.append(address)
    return first
