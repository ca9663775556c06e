"""Effects that a session requests. ``DeviceConnection`` applies them. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from .client_frames import Ref
from .hello import Position


@dataclass(frozen=True, slots=True)
class Send:
    """Queue a frame that is not part of the view (receipt, problem, ping): it is never dropped."""

    frame: bytes


@dataclass(frozen=True, slots=True)
class SendLive:
    """Queue a live frame; if the queue overflows, it is dropped in favour of a resync."""

    seq: int
    frame: bytes


@dataclass(frozen=True, slots=True)
class SendSync:
    """Queue a sync object, which does not count against the bound. ``tag`` and ``seq``: its cursor."""

    tag: str
    seq: int
    frame: bytes


@dataclass(frozen=True, slots=True)
class ConfirmCursor:
    """Record that the client's copy is current at this cursor; nothing is sent."""

    tag: str
    seq: int


@dataclass(frozen=True, slots=True)
class CloseConnection:
    """Close the connection with this ``CloseCode``."""

    code: int
    reason: str = ""


@dataclass(frozen=True, slots=True)
class ChargeBudget:
    """Charge the frame budget of the connection for work beyond the usual."""

    units: int


@dataclass(frozen=True, slots=True)
class VerifyToken:
    """Verify a token. Leads to ``Session.admitted``, ``renewed``, ``refused``, or a close."""

    token: str
    ref: Ref = None
    is_renewal: bool = False


@dataclass(frozen=True, slots=True)
class JoinChannel:
    """Subscribe to the user's channel and register the presence. Leads to ``Session.joined`` or a close."""


@dataclass(frozen=True, slots=True)
class ReadSync:
    """Read the sync of the session's view from a position. Leads to ``Session.synced`` with the same ``serial``."""

    position: Position
    serial: int


@dataclass(frozen=True, slots=True)
class CommitMessage:
    """Plan and commit a message of ``size_bytes`` of JSON. Leads to ``Session.committed`` or ``refused``.

    ``text``: the frame; empty if its size is refused.
    """

    # Text, not a document: a decoded message takes up to 20 times the memory, and may wait for its turn for seconds.
    ref: Ref
    text: bytes
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Acknowledge:
    """Record that the user has seen every item up to ``seq`` in this view."""

    seq: int


@dataclass(frozen=True, slots=True)
class ReportForeground:
    """Report that the device entered or left the foreground."""

    value: bool


@dataclass(frozen=True, slots=True)
class LimitReached:
    """Count a request above a rate limit in the metrics."""

    limit: str


@dataclass(frozen=True, slots=True)
class ResyncRequested:
    """Count in the metrics that the client requested a resync."""


@dataclass(frozen=True, slots=True)
class Regroup:
    """Move the connection to the view group of its new systems."""


Task = VerifyToken | JoinChannel | CommitMessage | Acknowledge | ReportForeground
"""Effects that await the store; they run one at a time."""

Effect = (
    Send
    | SendLive
    | SendSync
    | ConfirmCursor
    | CloseConnection
    | ChargeBudget
    | LimitReached
    | ReadSync
    | Regroup
    | ResyncRequested
    | Task
)
