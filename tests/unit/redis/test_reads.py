"""Reads of many keys return the answers of the reachable nodes, without waiting for the others."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from gregor.redis.commands import KeyGroup
from gregor.redis.connection import Argument, Command
from gregor.redis.errors import RedisUnavailable
from gregor.redis.reads import PATIENCE_S, call_each_node
from tests.support.manual_loop import ManualLoop


@dataclass
class Node:
    """A node that answers after ``answers_in_s``; never, if it is ``None``."""

    name: str
    connected: bool = True
    answers_in_s: float | None = 0.0


@dataclass
class Nodes:
    """The reads of a cluster whose keys name their node: ``a1`` belongs to node ``a``. ``?`` belongs to no node."""

    nodes: Sequence[Node]
    cancelled: list[str] = field(default_factory=list)

    def group_by_node(self, keys: Sequence[Argument]) -> list[KeyGroup]:
        places: dict[str, list[int]] = {}
        for place, key in enumerate(keys):
            places.setdefault(str(key)[0], []).append(place)
        return [KeyGroup(self._node(name), of_node) for name, of_node in places.items()]  # type: ignore[arg-type]

    async def call_many(self, commands: Sequence[Command]) -> list[Any]:
        name = str(commands[0][1])[0]
        node = self._node(name)
        assert node is not None and node.connected
        try:
            await asyncio.sleep(1e9 if node.answers_in_s is None else node.answers_in_s)
        except asyncio.CancelledError:
            self.cancelled.append(name)
            raise
        return [f"value of {command[1]!s}" for command in commands]

    def _node(self, name: str) -> Node | None:
        return next((node for node in self.nodes if node.name == name), None)


def read(nodes: Nodes, keys: Sequence[str], **options: bool) -> tuple[list[Any], float]:
    """Read keys on a manual clock. Returns the replies and the seconds that they took."""
    loop = ManualLoop()
    try:
        began_s = loop.time()
        replies = loop.complete(call_each_node(nodes, [("GET", key) for key in keys], **options))  # type: ignore[arg-type]
        return replies, loop.time() - began_s
    finally:
        loop.close()


def test_replies_are_in_the_order_of_the_reads() -> None:
    replies, _ = read(Nodes([Node("a"), Node("b", answers_in_s=0.1)]), ["b1", "a1", "b2", "a2"])

    assert replies == ["value of b1", "value of a1", "value of b2", "value of a2"]


@pytest.mark.parametrize(
    ("away", "reason"),
    [
        ([Node("b", connected=False)], "b is not connected"),
        ([], "the owner of the slot is not connected"),
        ([Node("b", answers_in_s=None)], "b is slow"),
    ],
    ids=["disconnected", "unknown owner", "hanging"],
)
def test_missing_node_costs_only_its_keys(away: list[Node], reason: str) -> None:
    nodes = Nodes([Node("a"), *away, Node("c", answers_in_s=0.2)])

    replies, took_s = read(nodes, ["b1", "a1", "c1"])

    assert replies[1:] == ["value of a1", "value of c1"]
    assert isinstance(replies[0], RedisUnavailable) and str(replies[0]) == reason
    assert took_s <= PATIENCE_S + 0.01
    assert not [name for name in nodes.cancelled if name != "b"]


def test_only_node_is_awaited_as_long_as_it_takes() -> None:
    replies, took_s = read(Nodes([Node("a", answers_in_s=3 * PATIENCE_S)]), ["a1", "a2"])

    assert replies == ["value of a1", "value of a2"] and took_s > PATIENCE_S


def test_no_reachable_node_answers_at_once() -> None:
    replies, took_s = read(Nodes([Node("a", connected=False), Node("b", connected=False)]), ["a1", "b1"])

    assert all(isinstance(reply, RedisUnavailable) for reply in replies) and took_s == 0


@pytest.mark.parametrize("node", [Node("a", answers_in_s=None), Node("a", connected=False)], ids=["hangs", "away"])
def test_keys_of_other_nodes_do_not_wait_for_one(node: Node) -> None:
    replies, took_s = read(Nodes([node, Node("b")]), ["a1", "a2"], is_part=True)

    assert all(isinstance(reply, RedisUnavailable) for reply in replies) and took_s <= PATIENCE_S
