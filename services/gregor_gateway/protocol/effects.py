"""PURE: what a session asks of the world. ``Connection`` carries each of them out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .client_frames import Ref
from .hello import Position


@dataclass(frozen=True, slots=True)
class Send:
    """Queue a frame that is no change of the view: never dropped for a slow device."""

    frame: bytes


@dataclass(frozen=True, slots=True)
class SendLive:
    """Queue a live frame; past the bound it is dropped for a resync."""

    seq: int
    frame: bytes


@dataclass(frozen=True, slots=True)
class SendSync:
    """Queue a sync object: outside the bound, alone. ``tag`` and ``seq``: its cursor."""

    tag: str
    seq: int
    frame: bytes


@dataclass(frozen=True, slots=True)
class ConfirmCursor:
    """The client's copy is good at this cursor: nothing is to be sent."""

    tag: str
    seq: int


@dataclass(frozen=True, slots=True)
class CloseConnection:
    """End the connection with a code of ``gregor.core.errors.CLOSES``, or of RFC 6455."""

    code: int
    reason: str = ""


@dataclass(frozen=True, slots=True)
class VerifyToken:
    """Check a token. Ends in ``Session.admitted``, ``renewed``, a refusal of the frame, or a close."""

    token: str
    ref: Ref = None
    is_renewal: bool = False


@dataclass(frozen=True, slots=True)
class JoinChannel:
    """Become known and present, and hear the user's channel. Ends in ``Session.joined`` or a close."""


@dataclass(frozen=True, slots=True)
class ReadSync:
    """Read the sync of the session's view from a position. Ends in ``Session.synced`` with the same ``serial``."""

    position: Position
    serial: int


@dataclass(frozen=True, slots=True)
class CommitMessage:
    """Plan and commit a message (``size_bytes`` of JSON). Ends in ``Session.committed`` or ``refused``."""

    ref: Ref
    document: Mapping[str, Any]
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Acknowledge:
    """The user has seen everything up to ``seq`` in this view."""

    seq: int


@dataclass(frozen=True, slots=True)
class ReportForeground:
    """The device came to the foreground, or left it."""

    value: bool


@dataclass(frozen=True, slots=True)
class Regroup:
    """The systems that this connection hears have changed."""


Task = VerifyToken | JoinChannel | CommitMessage | Acknowledge | ReportForeground
"""What waits for the world, one after the other."""

Effect = Send | SendLive | SendSync | ConfirmCursor | CloseConnection | ReadSync | Regroup | Task
