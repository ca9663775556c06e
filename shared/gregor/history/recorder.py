"""Recorder of histories: appends operations to a file, each with times of one monotonic clock."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

import msgspec

from .format import VERSION, HistoryHeader, Outcome, encode_line


def outcome_of(status: int | None) -> Outcome:
    """Return the outcome of a request by its HTTP status; None: no answer came.

    A 5xx answer is ``unknown``: the message may have been applied before the error.
    """
    if status is None or status >= 500:
        return "unknown"
    return "ok" if status < 400 else "refused"


class HistoryRecorder:
    """Writes a history to ``path``; use it as a context manager. It may be shared by the tasks of one event loop.

    ``clock_ns``, ``wall_us``: the monotonic clock and the Unix time in µs. ``complete``: every writer is recorded.
    Call ``now`` before a request, and pass the result as ``invoked`` after it.
    """

    def __init__(
        self,
        path: Path,
        *,
        complete: bool = True,
        clock_ns: Callable[[], int] = time.monotonic_ns,
        wall_us: Callable[[], int] | None = None,
    ) -> None:
        self.now = clock_ns
        self._file: BinaryIO = path.open("wb")
        wall = (wall_us or (lambda: time.time_ns() // 1_000))()
        self._file.write(encode_line(HistoryHeader(VERSION, wall, self.now(), complete)))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Write everything and close the file."""
        self._file.close()

    def send(
        self,
        uid: str,
        message: Mapping[str, Any] | bytes,
        invoked: int,
        outcome: Outcome,
        receipt: Mapping[str, Any] | bytes | None = None,
        *,
        device: str | None = None,
        categories: Sequence[str] | None = None,
        durability: str | None = None,
    ) -> None:
        """Record an attempt to send ``message`` that has just ended. ``receipt``: the receipt, if the outcome is ok.

        Both may be JSON as it was sent and received.
        """
        op: dict[str, Any] = {"op": "send", "uid": uid, "invoked": invoked, "ended": self.now(), "outcome": outcome}
        op |= {"message": _raw(message), "receipt": _raw(receipt), "device": device, "categories": categories}
        self._write(op | {"durability": durability})

    def forget(self, uid: str, device: str, invoked: int, outcome: Outcome) -> None:
        """Record a request that deleted a device."""
        self._write(
            {"op": "forget", "uid": uid, "device": device, "invoked": invoked, "ended": self.now(), "outcome": outcome}
        )

    def connect(
        self,
        uid: str,
        conn: str,
        *,
        device: str | None = None,
        categories: Sequence[str] | None = None,
        systems: Sequence[str] | None = None,
        resumes: str | None = None,
        cursor: str | None = None,
    ) -> None:
        """Record that a connection asks for its view. ``conn``: a name that no other connection has."""
        op: dict[str, Any] = {"op": "connect", "uid": uid, "conn": conn, "at": self.now(), "device": device}
        self._write(op | {"categories": categories, "systems": systems, "resumes": resumes, "cursor": cursor})

    def frame(self, uid: str, conn: str, text: str | bytes) -> None:
        """Record a server frame exactly as it was received. Call it before the frame is processed."""
        raw = text.encode() if isinstance(text, str) else text
        head = {"op": "frame", "uid": uid, "conn": conn, "at": self.now(), "frame": _raw(raw)}
        self._file.write(encode_line(head))

    def close_connection(self, uid: str, conn: str, code: int | None = None) -> None:
        """Record the end of a connection."""
        self._write({"op": "close", "uid": uid, "conn": conn, "at": self.now(), "code": code})

    def read(
        self,
        uid: str,
        kind: str,
        invoked: int,
        outcome: Outcome,
        answer: Mapping[str, Any] | bytes | None = None,
        *,
        device: str | None = None,
        categories: Sequence[str] | None = None,
        partial: bool = False,
    ) -> None:
        """Record a read of ``state`` or ``history``. ``answer``: the body, or its JSON as received."""
        op: dict[str, Any] = {"op": "read", "uid": uid, "kind": kind, "invoked": invoked, "ended": self.now()}
        op |= {"outcome": outcome, "answer": _raw(answer)}
        self._write(op | {"device": device, "categories": categories, "partial": partial})

    def fault(
        self,
        kind: str,
        began: int,
        target: str = "",
        *,
        uids: Sequence[str] | None = None,
        window_s: float = 1.0,
    ) -> None:
        """Record a failure that has just ended. Only the kind ``failover`` excuses lost messages."""
        op: dict[str, Any] = {"op": "fault", "kind": kind, "began": began, "ended": self.now(), "target": target}
        self._write(op | {"uids": uids, "window_s": window_s})

    def _write(self, op: dict[str, Any]) -> None:
        self._file.write(encode_line({name: value for name, value in op.items() if value is not None}))


def _raw(value: Mapping[str, Any] | bytes | None) -> Any:
    return msgspec.Raw(value) if isinstance(value, bytes) else value
