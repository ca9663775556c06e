"""The format of a history file: one JSON object a line (docs/reference/history-format.md).

The first line is the header, every other line one operation. All times are integers in nanoseconds of one monotonic
clock. Unknown members are ignored, so a newer recorder may add some.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta, Raw, Struct

VERSION: Final = 1
"""The version of the format; a checker refuses files of a later one."""

Outcome = Literal["ok", "refused", "unknown"]
"""``refused``: certainly without effect (a 4xx answer). ``unknown``: no answer, or a 5xx answer."""


WireCursor = Annotated[str, Meta(pattern=r"^([0-9a-f]{6}[0-9a-z]{0,18}-[0-9]{1,13})?$")]
"""A cursor, which begins with six hex digits of the epoch; empty if there is none."""


class HistoryError(ValueError):
    """The file is not a history, or a line is malformed. The text names the line and the fix."""


MALFORMED: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""Raised by the decoders of this module."""


def malformed(line: int, error: Exception) -> HistoryError:
    """Return the error for a line with a frame or an answer that no server sends."""
    return HistoryError(f"line {line}: not a valid frame or answer of a server: {error}")


class HistoryHeader(Struct):
    """The first line. ``wall_us`` is the Unix time in µs at the moment ``clock_ns`` of the monotonic clock.

    ``complete``: every writer of these users is recorded, so an effect without a recorded request is an anomaly.
    """

    gregor_history: int
    wall_us: int
    clock_ns: int
    complete: bool = True


class WireReceipt(Struct):
    """A receipt as it was received (http.md, "Messages"). ``not_before``: the message was delayed."""

    cursor: WireCursor = ""
    seq: int = 0
    created: tuple[str, ...] = ()
    dismissed: tuple[str, ...] = ()
    ignored: dict[str, str] = {}
    unchanged: bool = False
    durability: str | None = None
    not_before: float | None = None


class SendOp(Struct, tag="send", tag_field="op"):
    """One attempt to send a message. A repeat is another operation with the same ``message``.

    ``device``: the sending device; None for a backend. ``categories``: the category prefixes of its key or token.
    ``durability``: the level that the request asked for.
    """

    uid: str
    invoked: int
    ended: int
    outcome: Outcome
    message: Raw
    device: str | None = None
    categories: tuple[str, ...] | None = None
    durability: str | None = None
    receipt: WireReceipt | None = None
    line: int = 0


class ForgetOp(Struct, tag="forget", tag_field="op"):
    """One request to delete a device."""

    uid: str
    device: str
    invoked: int
    ended: int
    outcome: Outcome
    line: int = 0


class ConnectOp(Struct, tag="connect", tag_field="op"):
    """A device asked for its view: ``hello`` of a WebSocket, or the start of a stream or of a series of polls.

    ``categories``, ``systems``: the effective filters, narrowed by the token. ``device``: None for an observer.
    ``cursor``: the position of the copy that the device already has; ``resumes`` names the connection that made it.
    """

    uid: str
    conn: str
    at: int
    device: str | None = None
    categories: tuple[str, ...] | None = None
    systems: tuple[str, ...] | None = None
    resumes: str | None = None
    cursor: WireCursor | None = None
    line: int = 0


class WireExternal(Struct):
    """An external message in a sync object."""

    system: str
    seq: int
    body: Raw = Raw(b"null")


class WireFrame(Struct):
    """A server frame as it was received: a sync object or a live frame."""

    system: str | None = None
    sync: str | None = None
    seq: int | None = None
    cursor: WireCursor | None = None
    digest: str | None = None
    body: Raw = Raw(b"{}")
    external: tuple[WireExternal, ...] = ()
    external_gap: bool = False


class WireDismissal(Struct, frozen=True):
    """The part ``dismiss`` of a body."""

    ids: tuple[str, ...] = ()
    reason: str | None = None


class WireBody(Struct):
    """The body of a frame of the system ``gregor``."""

    create: dict[str, Raw] = {}
    dismiss: WireDismissal = WireDismissal()
    remind: dict[str, float] = {}
    flush: bool = False


class WireItemTimes(Struct):
    """The part ``times`` of an item; the checker needs only ``created``, in Unix seconds."""

    created: Annotated[float, Meta(ge=0, le=1e10)]


class WireItem(Struct):
    """An item as a server sends it: the parts that the checker reads."""

    times: WireItemTimes
    for_device: str | None = None


class FrameOp(Struct, tag="frame", tag_field="op"):
    """A frame that a connection received."""

    uid: str
    conn: str
    at: int
    frame: WireFrame
    line: int = 0


class CloseOp(Struct, tag="close", tag_field="op"):
    """The end of a connection, on whichever side."""

    uid: str
    conn: str
    at: int
    code: int | None = None
    line: int = 0


class WireGone(Struct):
    """When and why an item of the history left."""

    at: float
    reason: str
    seq: int
    device: str | None = None


class WireEntry(Struct):
    """An entry of ``GET …/history``."""

    id: str
    item: Raw
    seq: int
    gone: WireGone | None = None


class WireAnswer(Struct):
    """The answer of ``GET …/state`` (``cursor``, ``digest``, ``items``) or ``GET …/history`` (``entries``)."""

    cursor: WireCursor | None = None
    digest: str | None = None
    items: dict[str, Raw] = {}
    entries: tuple[WireEntry, ...] = ()


class ReadOp(Struct, tag="read", tag_field="op"):
    """A read over HTTP. ``device``: the view; None is the backend's.

    ``answer`` of kind ``history`` has the entries of all pages; ``partial`` says that pages are missing.
    """

    uid: str
    kind: Literal["state", "history"]
    invoked: int
    ended: int
    outcome: Outcome
    answer: WireAnswer | None = None
    device: str | None = None
    categories: tuple[str, ...] | None = None
    partial: bool = False
    line: int = 0


class FaultOp(Struct, tag="fault", tag_field="op"):
    """A failure that the test caused or observed. Only ``kind: failover`` excuses lost messages.

    ``uids``: the users that it concerns; None for all. ``window_s``: messages acknowledged up to this time before
    the failover may be lost. ``target``: the process or server, for the reader of the report.
    """

    kind: str
    began: int
    ended: int
    target: str = ""
    uids: tuple[str, ...] | None = None
    window_s: float = 1.0
    line: int = 0


UserOp = SendOp | ForgetOp | ConnectOp | FrameOp | CloseOp | ReadOp
"""An operation of one user."""


class _OpHead(Struct):
    uid: str | None = None
    at: int = 0
    ended: int = 0


decode_op: Final = msgspec.json.Decoder(SendOp | ForgetOp | ConnectOp | FrameOp | CloseOp | ReadOp | FaultOp).decode
decode_header: Final = msgspec.json.Decoder(HistoryHeader).decode
decode_body: Final = msgspec.json.Decoder(WireBody).decode
decode_item: Final = msgspec.json.Decoder(WireItem).decode
decode_head: Final = msgspec.json.Decoder(_OpHead).decode
decode_json: Final = msgspec.json.Decoder().decode


def encode_line(value: Struct | dict[str, Any]) -> bytes:
    """Return one line of a history, with its line feed."""
    return msgspec.json.encode(value) + b"\n"
