"""The commands that a store needs, on one Redis-protocol server (``RedisClient``) or a cluster (``ClusterClient``)."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol, TypeAlias

from .connection import Argument, Command


@dataclass(frozen=True, slots=True)
class Script:
    """A Lua script and its SHA-1 digest, by which servers cache it.

    ``is_repeatable``: a second execution of the same call has no further effect. A cluster client therefore repeats a
    call whose reply was lost with the connection.
    """

    source: str = field(repr=False)
    is_repeatable: bool = field(default=False, compare=False)
    sha: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "sha", hashlib.sha1(self.source.encode(), usedforsecurity=False).hexdigest())


ScriptCall: TypeAlias = tuple[Script, bytes]
"""A script, and the whole packed command that runs it."""


class RedisNode(Protocol):
    """A server that owns keys: the only one, or one primary of a cluster."""

    @property
    def name(self) -> str:
        """``host:port``, for logs, metrics and reports."""
        ...

    @property
    def connected(self) -> bool:
        """Whether there is a connection to the server now."""
        ...

    @property
    def server_id(self) -> str | None:
        """The id of the server process (``run_id``); ``None`` while not connected, or if it is unknown."""
        ...

    @property
    def generation(self) -> int:
        """A number that changes with every new connection."""
        ...

    @property
    def connected_for_s(self) -> float:
        """Seconds since the connection was established; 0.0 while there is none."""
        ...

    def call(self, *args: Argument) -> asyncio.Future[Any]:
        """Issue a command without a key on this server, such as PING, INFO or TIME; see ``RedisCommands.call``."""
        ...

    def call_on_connection(self, *args: Argument) -> asyncio.Future[Any]:
        """Issue a command over the current connection only: after a reconnect, it could reach another server.

        The future ends as that of ``call``, or with the ``ReplyError`` of a server that does not own the key. Without a
        connection, or if it ends before the reply, it fails with ``RedisUnavailable``.
        """
        ...


class KeyGroup(NamedTuple):
    """Keys of one node. ``node`` is ``None`` if no known server owns their slots now.

    ``places``: the positions of these keys in the sequence that was grouped.
    """

    node: RedisNode | None
    places: Sequence[int]


class RedisCommands(Protocol):
    """Asynchronous commands. Replies are raw: ``bytes``, ``int``, ``None`` or a list of these."""

    def call(self, *args: Argument) -> asyncio.Future[Any]:
        """Issue a command and return at once. Commands are executed in the order of their calls.

        In a cluster the key decides which primary executes the command, and only the order of commands of one slot is
        kept. A command without a key is refused there with ``ValueError``: send it to one of ``nodes``.

        The future ends with the reply, or with ``ReplyError`` (the server refused it), ``RedisUnavailable`` (it was not
        executed) or ``RedisConnectionLost`` (unknown). Cancelling the future does not cancel a command that was sent.
        """
        ...

    def evalsha(self, script: Script, keys: Sequence[Argument], args: Sequence[Argument]) -> asyncio.Future[Any]:
        """Run a script, as ``call``. If the server has not loaded the script, load it and repeat the call.

        Commands called between the first attempt and the repetition may be executed before the script.
        """
        ...

    def run(self, call: ScriptCall) -> asyncio.Future[Any]:
        """Run a script call that is packed already; see ``evalsha``."""
        ...

    async def run_many(self, calls: Sequence[ScriptCall]) -> list[Any]:
        """Send script calls in one write and return their replies in order.

        A failed call has its exception in its place.

        If the server has not loaded a script, it is loaded, and its calls are repeated in order after the others.
        """
        ...

    async def call_many(self, commands: Sequence[Command]) -> list[Any]:
        """Send commands in one write for each node and return their replies in order.

        A failed command has its exception in its place. Commands of a node that does not answer are awaited as long
        as those of ``call``: use ``group_by_node`` if the others must not wait for them.
        """
        ...

    @property
    def nodes(self) -> Sequence[RedisNode]:
        """The servers that own keys now: one, or the primaries of a cluster, also those that are not connected."""
        ...

    def group_by_node(self, keys: Sequence[Argument]) -> list[KeyGroup]:
        """Return the keys by the node that owns each of them now.

        A caller that reads many keys can then answer for the nodes that are reachable. The groups are a snapshot: a
        slot may move before the commands are sent, and the commands follow it.
        """
        ...

    async def load(self, scripts: Sequence[Script]) -> None:
        """Load scripts now, and first of all on every new connection.

        Therefore the calls of ``run_many`` keep their order even if the server lost its scripts in a restart.
        """
        ...

    async def close(self) -> None:
        """Close for good. Commands without a reply fail."""
        ...
