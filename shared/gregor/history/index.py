"""Index of a history file: the places of each user's lines, so that one user at a time is in memory."""

from __future__ import annotations

import mmap
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from .format import (
    MALFORMED,
    VERSION,
    FaultOp,
    HistoryError,
    HistoryHeader,
    UserOp,
    decode_head,
    decode_header,
    decode_op,
)


@dataclass(slots=True)
class HistoryIndex:
    """A header, the faults of all users, and for each user the offsets and numbers of the lines.

    ``end_ns``: the last recorded time.
    """

    header: HistoryHeader
    faults: list[FaultOp] = field(default_factory=list)
    offsets: dict[str, array[int]] = field(default_factory=dict)
    lines: dict[str, array[int]] = field(default_factory=dict)
    count: int = 0
    end_ns: int = 0


MAX_LINE_BYTES = 64 << 20
"""Maximum length of a line. The longest operations are reads of a whole history."""


def index_file(path: Path) -> HistoryIndex:
    """Read a file once and return its index. Raises ``HistoryError`` for a line that is not an operation."""
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise HistoryError("not a regular file: the checker reads it twice, so copy the history to a file")
    with path.open("rb") as file:
        index = HistoryIndex(_header(file))
        place = file.tell()
        for number, line in enumerate(iter(lambda: file.readline(MAX_LINE_BYTES), b""), 2):
            if len(line) == MAX_LINE_BYTES:
                raise HistoryError(f"line {number}: longer than {MAX_LINE_BYTES} bytes, the limit of an operation")
            start, place = place, place + len(line)
            if not line.endswith(b"\n"):
                break  # the recorder was killed while it wrote
            uid, at = _head(line, number)
            index.end_ns = max(index.end_ns, at)
            if uid is None:
                fault = decode_line(line, number)
                if not isinstance(fault, FaultOp):
                    raise HistoryError(f"line {number}: an operation needs the member uid")
                index.faults.append(fault)
                continue
            if uid not in index.offsets:
                index.offsets[uid], index.lines[uid] = array("q"), array("q")
            index.offsets[uid].append(start)
            index.lines[uid].append(number)
            index.count += 1
    index.faults.sort(key=lambda fault: fault.began)
    return index


def _header(file: BinaryIO) -> HistoryHeader:
    try:
        header = decode_header(file.readline(MAX_LINE_BYTES))
    except MALFORMED as error:
        detail = '{"gregor_history": 1, "wall_us": …, "clock_ns": …}'
        raise HistoryError(f"line 1: not the header of a history, which is {detail}: {error}") from None
    if not 1 <= header.gregor_history <= VERSION:
        detail = f"this checker reads versions 1 to {VERSION}; for a later version, use a newer gregor"
        raise HistoryError(f"line 1: the history has the format version {header.gregor_history}; {detail}")
    return header


def _head(line: bytes, number: int) -> tuple[str | None, int]:
    """Return the uid and the time of an operation."""
    try:
        head = decode_head(line)
    except MALFORMED as error:
        raise HistoryError(f"line {number}: not valid JSON of an operation: {error}") from None
    return head.uid, head.ended or head.at


def decode_line(line: bytes, number: int) -> UserOp | FaultOp:
    """Return the operation of a line. Raises ``HistoryError`` with the number of the line."""
    try:
        op: UserOp | FaultOp = decode_op(line)
    except MALFORMED as error:
        raise HistoryError(f"line {number}: not a valid operation: {error}") from None
    op.line = number
    return op


def user_ops(data: mmap.mmap, index: HistoryIndex, uid: str) -> Iterator[UserOp]:
    """Yield the operations of one user, in the order of the file."""
    for start, number in zip(index.offsets[uid], index.lines[uid], strict=True):
        op = decode_line(data[start : data.find(b"\n", start)], number)
        if isinstance(op, FaultOp):
            raise HistoryError(f"line {number}: a fault has uids, not uid")
        yield op
