"""The interface of a connection to the fan-out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from gregor.core.items.announcement import CreationFrame
from gregor.core.items.sync import SyncResult
from gregor.store.contract.devices import DeviceSession
from gregor_gateway.protocol.hello import Position


class Subscriber(Protocol):
    """One connection on a user channel. No method blocks."""

    @property
    def device(self) -> str:
        """The device; empty for an observer that sees every item of the user."""
        ...

    @property
    def session_name(self) -> str:
        """The name of its session."""
        ...

    @property
    def name(self) -> str:
        """The unique name of the connection."""
        ...

    @property
    def observes(self) -> bool:
        """Whether the connection is an observer: it reads, but has no presence and sends nothing."""
        ...

    @property
    def is_over(self) -> bool:
        """Whether the connection has ended."""
        ...

    @property
    def is_present(self) -> bool:
        """Whether its presence is in the store: it has joined, and is not an observer."""
        ...

    @property
    def issued_us(self) -> int:
        """When its token was issued; 0 if unknown."""
        ...

    @property
    def key_mark(self) -> str:
        """See ``Caller.key_mark``: the key that verified its newest token; empty if unknown."""
        ...

    @property
    def opened_us(self) -> int:
        """When the connection was opened, by the clock of this gateway."""
        ...

    def deliver(self, seq: int, frame: bytes) -> None:
        """Deliver a live frame of its view."""
        ...

    def deliver_fast(self, run: Sequence[CreationFrame]) -> int:
        """Deliver consecutive live frames; return the bytes written at once, 0 if they were queued. Hot path."""
        ...

    def epoch_changed(self, epoch: bytes) -> None:
        """Give the next live frame a cursor of this epoch."""
        ...

    def resync(self, position: Position | None, reached: int, reason: str = "missed") -> None:
        """Send a sync from this position; ``None``: from what was delivered, with announcements up to ``reached``.

        ``reason``: the label of the metric ``gregor_resyncs_total``.
        """
        ...

    def sync_texts(self, reached: int) -> None:
        """Send a sync in place of a live frame with too many texts, once the device may use more CPU time.

        ``reached``: the seq before the frame.
        """
        ...

    @property
    def lacks_external(self) -> bool:
        """Whether the connection needs the external messages up to its next sync object, read without a cursor."""
        ...

    @property
    def owes_cpu(self) -> bool:
        """Whether its device has used more CPU time than it may."""
        ...

    def charge_cpu(self, cpu_ns: int) -> None:
        """Charge the device for CPU time that its live frames used."""
        ...

    def resync_within(self, spread_s: float, seq: int) -> None:
        """Send a full copy at a random moment of the spread, unless a sync above ``seq`` comes first."""
        ...

    def synced(self, serial: int, result: SyncResult, frame: bytes, cpu_ns: int) -> None:
        """Accept the result of the read with this serial.

        ``frame`` is its encoded sync object; ``cpu_ns`` its share of the CPU time of the read.
        """
        ...

    def sync_failed(self, serial: int) -> None:
        """Handle the failure of the read with this serial."""
        ...

    def counting_changed(self) -> None:
        """Send a new welcome: other categories count in the badge."""
        ...

    def release_receipts(self, reached: int) -> None:
        """Send the receipts that waited for announcements up to ``reached``."""
        ...

    def receive_document(self, document: object, issued_us: int) -> None:
        """Handle a client frame that was posted to another gateway (``POST /v1/frames``).

        ``issued_us``: when the token of its request was issued.
        """
        ...

    def post(self, document: object, issued_us: int) -> bytes | None:
        """Handle a client frame that was posted to this gateway; return the frame to answer with, if any.

        ``issued_us``: see ``receive_document``.
        """
        ...

    def lease(self, gateway: str) -> DeviceSession:
        """Return its session as the store keeps it, held by ``gateway``."""
        ...

    def close(self, code: int) -> None:
        """Close the connection."""
        ...
