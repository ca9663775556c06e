"""Reads of many keys in a cluster. If a node is unreachable, only its keys fail, and the others do not wait."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any, Final

from .commands import KeyGroup, RedisCommands
from .connection import Argument, Command
from .errors import RedisUnavailable

PATIENCE_S: Final = 0.5
"""How long the slower nodes may take after the first has answered. The client finds a hung node only after 3 s."""


async def call_each_node(client: RedisCommands, commands: Sequence[Command], *, is_part: bool = False) -> list[Any]:
    """Send reads, whose second word is the key, and return their replies in order.

    A failed command has its exception in its place: ``RedisUnavailable`` if its node is unreachable or too slow.
    ``is_part``: see ``read_each_node``.
    """
    keys = [command[1] for command in commands]
    send = partial(_call_places, client, commands)
    return await read_each_node(client, keys, send, is_part=is_part)


def _call_places(client: RedisCommands, commands: Sequence[Command], places: Sequence[int]) -> Awaitable[list[Any]]:
    return client.call_many([commands[place] for place in places])


async def read_each_node(
    client: RedisCommands,
    keys: Sequence[Argument],
    send: Callable[[Sequence[int]], Awaitable[list[Any]]],
    *,
    is_part: bool = False,
) -> list[Any]:
    """Read each key and return the replies in the order of ``keys``; see ``call_each_node``.

    Args:
        send: Sends the reads of the keys at these places, and returns their replies in this order.
        is_part: The keys are a part of a larger read, which must not wait for them. A node of a cluster that does not
            answer within ``PATIENCE_S`` is then given up, even if it is the only one here.
    """
    groups = client.group_by_node(keys)
    if len(groups) == 1 and not (is_part and len(client.nodes) > 1):
        return await send(groups[0].places)
    replies: list[Any] = [None] * len(keys)
    reading = {asyncio.ensure_future(send(group.places)): group for group in groups if _is_reachable(group)}
    for group in groups:
        if not _is_reachable(group):
            _put(replies, group, [_unavailable(group, "is not connected")] * len(group.places))
    if reading:
        try:
            if not is_part:
                await asyncio.wait(reading, return_when=asyncio.FIRST_COMPLETED)
            await asyncio.wait(reading, timeout=PATIENCE_S)
        finally:
            for future in reading:
                future.cancel()  # without effect on those that have ended
        for future, group in reading.items():
            is_late = not future.done() or future.cancelled()
            found = [_unavailable(group, "is slow")] * len(group.places) if is_late else future.result()
            _put(replies, group, found)
    return replies


def _is_reachable(group: KeyGroup) -> bool:
    return group.node is not None and group.node.connected


def _unavailable(group: KeyGroup, why: str) -> RedisUnavailable:
    name = "the owner of the slot" if group.node is None else group.node.name
    return RedisUnavailable(f"{name} {why}")


def _put(replies: list[Any], group: KeyGroup, found: Sequence[Any]) -> None:
    for place, reply in zip(group.places, found, strict=True):
        replies[place] = reply
