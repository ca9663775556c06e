"""The interface of a connection to its transport: WebSocket, SSE and long poll differ only in this."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from gregor.core.items.announcement import CreationFrame


class Transport(Protocol):
    """The way to one client. No method blocks; a full buffer calls ``pause`` and ``resume`` of the connection."""

    def pack(self, frame: bytes, tag: str, seq: int) -> bytes:
        """Return a frame as it is written. ``tag`` and ``seq``: its cursor; ``seq`` is 0 if it has none."""
        ...

    def write(self, packed: Sequence[bytes]) -> int:
        """Write packed frames together; return the number of bytes."""
        ...

    def write_run(self, run: Sequence[CreationFrame], tag: str) -> int:
        """Pack and write the frames of a run together; return the bytes written. ``tag``: the tag of their cursors."""
        ...

    def close(self, code: int, reason: str) -> None:
        """Send the close code and end the transport."""
        ...

    def confirmed(self) -> None:
        """Note that the client's copy is current, and no frame was sent for it."""
        ...

    def hold_reading(self, is_held: bool) -> None:
        """Stop reading from the client, or continue (backpressure on the client)."""
        ...
