"""What a connection asks of the way to its client: WebSocket, SSE and poll differ in this alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from gregor.core.items.announcement import CreationFrame


class Transport(Protocol):
    """The way to one client. None of it waits; a full buffer is told by ``Connection.pause`` and ``resume``."""

    def pack(self, frame: bytes, tag: str, seq: int) -> bytes:
        """A frame as it is written. ``seq`` is 0 where the frame has no position, else ``tag`` is its cursor's."""
        ...

    def write(self, packed: Sequence[bytes]) -> int:
        """Write these, in one go; how many bytes."""
        ...

    def write_run(self, run: Sequence[CreationFrame], tag: str) -> int:
        """Pack and write the frames of a run, in one go; how many bytes. ``tag`` is that of their cursors."""
        ...

    def close(self, code: int, reason: str) -> None:
        """Tell the client why, and end it."""
        ...

    def confirmed(self) -> None:
        """The client's copy is good, and nothing had to be sent for it."""
        ...

    def hold_reading(self, is_held: bool) -> None:
        """Read no more from the client, or again."""
        ...
