"""The nodes of a Redis Cluster, as the nodes of the URL see them: the newest view counts."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from gregor.redis.cluster.slots import SLOTS, MemberNode, NodeAddress, parse_info, parse_members
from gregor.redis.connect import connect
from gregor.redis.connection import Command, NullListener
from gregor.redis.errors import RedisUnavailable, ReplyError
from gregor.redis.url import RedisUrl

_OTHERS_WAIT: Final = 0.25
"""Part of the timeout of an answer for which a complete view waits for the other nodes of the URL."""


@dataclass(frozen=True, slots=True)
class NodeView:
    """The cluster as one node sees it. ``rank``: the view with the highest one counts."""

    asked: NodeAddress
    rank: tuple[bool, int, int]
    members: Sequence[MemberNode]

    @property
    def is_complete(self) -> bool:
        """Whether the node sees a working cluster that serves every slot."""
        return self.rank[0] and self.rank[2] == SLOTS


@dataclass(frozen=True, slots=True)
class ClusterView:
    """The nodes of the cluster. ``strangers``: nodes of the URL that belong to no or to another cluster."""

    members: Sequence[MemberNode]
    strangers: Sequence[NodeAddress]


async def cluster_view(address: RedisUrl, answer_s: float) -> ClusterView:
    """Return the newest view of the nodes of the URL. Raises ``RedisUnavailable`` if none of them answers.

    A node that was reset or removed still answers. Its own view has a lower epoch or fewer slots.
    """
    asking = {asyncio.ensure_future(_view(address, host, answer_s)) for host in address.hosts}
    views: list[NodeView] = []
    failures: list[str] = []
    open_, wait_s = asking, answer_s
    try:
        while open_:
            done, open_ = await asyncio.wait(open_, timeout=wait_s, return_when=asyncio.FIRST_COMPLETED)
            if not done:
                break
            for each in done:
                try:
                    views.append(each.result())
                except (RedisUnavailable, ReplyError, TimeoutError, ValueError) as error:
                    failures.append(str(error) or f"no answer within {answer_s:g} s")
            # A hung node of the URL must not use up the time of the other checks.
            if any(view.is_complete for view in views):
                wait_s = answer_s * _OTHERS_WAIT
    finally:
        for each in asking:
            each.cancel()
        await asyncio.gather(*asking, return_exceptions=True)
    if not views:
        raise RedisUnavailable("no node of the cluster answers: " + "; ".join(failures))
    return newest_view(views)


def newest_view(views: Sequence[NodeView]) -> ClusterView:
    """Return the members of the newest view, and the nodes whose view has none of them."""
    newest = max(views, key=lambda view: view.rank)
    known = {member.address for member in newest.members}
    strangers = [view.asked for view in views if known.isdisjoint(member.address for member in view.members)]
    return ClusterView(newest.members, sorted(strangers))


async def _view(address: RedisUrl, asked: NodeAddress, answer_s: float) -> NodeView:
    info, shards = await ask_node(address, asked, [("CLUSTER", "INFO"), ("CLUSTER", "SHARDS")], answer_s)
    for reply in (info, shards):
        if isinstance(reply, ReplyError):
            raise reply
    is_ok, epoch = parse_info(info)
    members = parse_members(shards, asked, tls=address.tls is not None)
    return NodeView(asked, (is_ok, epoch, sum(each.slots for each in members if each.is_primary)), members)


async def ask_node(address: RedisUrl, node: NodeAddress, commands: Sequence[Command], answer_s: float) -> list[Any]:
    """Return the replies of one node. Raises ``RedisUnavailable`` or ``TimeoutError``."""
    async with asyncio.timeout(answer_s):
        connection = await connect(address.server(*node), "gregor-doctor", NullListener(), answer_s)
        try:
            return await connection.request(commands)
        finally:
            connection.abort("is no longer needed")
