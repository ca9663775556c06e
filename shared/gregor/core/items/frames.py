"""Shapes of the frames that a client receives. A client checks each one: its server may be broken, or hostile."""

from __future__ import annotations

from typing import Annotated, Any, Final, NotRequired, TypedDict

import msgspec

_Time = Annotated[float, msgspec.Meta(ge=-1e12, le=1e12)]
"""Unix seconds, or seconds: the arithmetic of a client stays finite."""
_Milliseconds = Annotated[float, msgspec.Meta(ge=0, le=86_400_000)]
_Seq = Annotated[int, msgspec.Meta(ge=0, le=1 << 53)]
_Cursor = Annotated[str, msgspec.Meta(max_length=64, pattern=r"^[!-~]+-[0-9]{1,16}\Z")]
"""A client sends it in each later `hello`: it must fit into UTF-8 and into the request."""


class _Times(TypedDict):
    created: _Time
    expires: NotRequired[_Time | None]
    remind_at: NotRequired[list[_Time]]


class _Item(TypedDict):
    times: _Times
    for_device: str | None
    category: str
    body: Any


class _Dismissal(TypedDict):
    ids: NotRequired[list[str]]
    reason: NotRequired[str | None]


class _Body(TypedDict):
    create: NotRequired[dict[str, _Item] | None]
    dismiss: NotRequired[_Dismissal | None]
    remind: NotRequired[dict[str, _Time] | None]


class _External(TypedDict):
    system: str
    seq: _Seq
    body: Any


class _Sync(TypedDict):
    sync: str
    cursor: _Cursor
    digest: NotRequired[str]
    body: NotRequired[_Body | None]
    uncounted: NotRequired[list[str]]
    external: NotRequired[list[_External]]


class _Live(_External):
    cursor: NotRequired[_Cursor | None]
    spread: NotRequired[_Time]


class _LiveItems(_Live):
    body: _Body  # narrower than that of an external message


class _Problem(TypedDict):
    code: NotRequired[str]
    status: NotRequired[int]
    retry_after_ms: NotRequired[_Milliseconds]
    errors: NotRequired[list[dict[str, Any]]]


class ReceiptMembers(TypedDict):
    """The members of a receipt that a client reads."""

    seq: NotRequired[_Seq]
    created: NotRequired[list[str]]
    dismissed: NotRequired[list[str]]
    ignored: NotRequired[dict[str, str]]
    unchanged: NotRequired[bool]
    id: NotRequired[str | None]
    not_before: NotRequired[_Time | None]
    deliveries: NotRequired[list[dict[str, Any]]]
    replicas: NotRequired[int | None]


class _Received(TypedDict):
    ref: int
    receipt: ReceiptMembers


class _Refused(TypedDict):
    problem: _Problem


class _RefusedMessage(_Refused):
    ref: int


class _WelcomeBody(TypedDict):
    uncounted: NotRequired[list[str]]


class _Welcome(TypedDict):
    welcome: _WelcomeBody


class _ReconnectBody(TypedDict):
    after_ms: _Milliseconds


class _Reconnect(TypedDict):
    reconnect: _ReconnectBody


_SHAPES: Final[dict[str, Any]] = {
    "reconnect": _Reconnect,
    "receipt": _Received,
    "ref": _RefusedMessage,
    "problem": _Refused,
    "sync": _Sync,
    "welcome": _Welcome,
}
"""The shape of a frame, by the first of these members that it has."""


def check_frame(frame: object) -> None:
    """Raise ValueError if a decoded frame does not have the shape of its kind. Unknown frames and members are valid."""
    if not isinstance(frame, dict):
        raise ValueError("not a JSON object")
    shape = next((shape for member, shape in _SHAPES.items() if member in frame), None)
    if shape is None and "system" in frame and "seq" in frame:
        shape = _LiveItems if frame["system"] == "gregor" else _Live
    if shape is not None:
        check_shape(frame, shape)


def check_shape(value: object, shape: Any) -> None:
    """Raise ValueError, with the place in the value, if a decoded value does not have this shape."""
    try:
        msgspec.convert(value, shape)
    except msgspec.ValidationError as error:
        raise ValueError(str(error)) from error
