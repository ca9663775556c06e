"""Redirects (MOVED, ASK) and other error replies of a cluster, and what the client does about each.

The tests have a case for each row of this table.

=================  ==============  =============================================================  ============
answer             was executed?   the client                                                     asks for map
=================  ==============  =============================================================  ============
value, other error yes             returns it                                                     no
``MOVED``          no              patches the slot, sends the command to the new owner           yes
``MOVED`` to the   no              replaces its connection: a proxy in front has switched         yes
same address
``ASK``            no              sends ASKING and the command to the target in one write        no
``TRYAGAIN``       no              repeats after a short delay, for 0.25 s in all; then fails     no
``CLUSTERDOWN``    no              waits for another owner, and repeats                           yes
``LOADING``        no              waits, and repeats                                             yes
``MASTERDOWN``     no              waits for another owner, and repeats                           yes
``READONLY``       no              waits for another owner, and repeats                           yes
``NOSCRIPT``       no              loads the script on this node, and repeats once                no
``NOREPLICAS``     no              returns it                                                     yes
``OOM``            no              returns it                                                     no
connection lost    unknown         repeats a repeatable call once; others: RedisConnectionLost    yes
not sent           no              waits for a connection or another owner                        yes
=================  ==============  =============================================================  ============

All waiting and all redirects of a command end after ``max_wait_s`` with ``RedisUnavailable``. A command that was
refused is repeated only while no later command of its slot was executed; otherwise it fails with ``RedisUnavailable``.
Therefore commands of one slot that succeed were executed in the order of their calls. One case is beyond the client: a
node refuses a call, executes a later one, and the connection breaks before either reply arrives. The repeated call then
comes second.
"""

from __future__ import annotations

from enum import Enum, auto
from typing import Any, Final, NamedTuple

from gregor.redis.errors import ReplyError

from .slots import SLOTS, NodeAddress


class Action(Enum):
    """What to do with a command after its answer."""

    RETURN = auto()
    """The answer is final: the caller gets it."""
    FOLLOW = auto()
    """The slot has another owner (``address``): send the command there."""
    ASK = auto()
    """Send this command, and only this one, to ``address``."""
    TRY_AGAIN = auto()
    """The keys of the command are on two nodes while the slot moves: repeat soon."""
    WAIT = auto()
    """The node cannot serve the slot now: repeat after a while, or at another owner."""
    LOAD = auto()
    """Load the script, and repeat."""


class Decision(NamedTuple):
    """An action, the address of a redirect, and whether the slot map should be asked for again."""

    action: Action
    address: NodeAddress | None = None
    refresh: bool = False


RETURN: Final = Decision(Action.RETURN)
_BY_CODE: Final = {
    "TRYAGAIN": Decision(Action.TRY_AGAIN),
    "CLUSTERDOWN": Decision(Action.WAIT, refresh=True),
    "LOADING": Decision(Action.WAIT, refresh=True),
    "MASTERDOWN": Decision(Action.WAIT, refresh=True),
    "READONLY": Decision(Action.WAIT, refresh=True),
    "NOSCRIPT": Decision(Action.LOAD),
    # The node lost its replicas: perhaps because it was replaced and does not know yet.
    "NOREPLICAS": Decision(Action.RETURN, refresh=True),
}

CLUSTER_CODES: Final = frozenset({"MOVED", "ASK", *_BY_CODE})
"""The codes of error replies that are about the state of the cluster, not about the command."""


def decide(reply: Any, asked: NodeAddress) -> Decision:
    """Return what to do after a reply. ``asked``: the node that sent it; a redirect without a host means its host."""
    if not isinstance(reply, ReplyError):
        return RETURN
    code, *rest = str(reply).split(" ")
    if code in ("MOVED", "ASK"):
        address = _address_of(rest, asked)
        if address is None:
            return RETURN  # not a redirect that any server sends; the caller sees the text
        return Decision(Action.FOLLOW, address, refresh=True) if code == "MOVED" else Decision(Action.ASK, address)
    return _BY_CODE.get(code, RETURN)


def _address_of(words: list[str], asked: NodeAddress) -> NodeAddress | None:
    """Return the address of a redirect, ``<slot> <host>:<port>``; an IPv6 host has no brackets there."""
    match words:
        case [slot, place] if slot.isdigit() and int(slot) < SLOTS:
            host, _, port = place.rpartition(":")
            if port.isdigit() and 0 < int(port) < 65_536:
                return (host if host not in ("", "?") else asked[0]), int(port)
    return None
