"""The synchronizer of a user's state: copy and outbox, and the protocol between them and the server.

It does no I/O and reads no clock. Waits and the comparison of the digest get the monotonic time (`monotonic_us`), which
never jumps. The times of items are compared with the wall time (`now_us`).

Frames of a connection go in, frames to send come out. `Device` carries them over a WebSocket; `gregor conformance` runs
this class against a simulated server.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from gregor.core.close_codes import CloseCode

from .changes import Change, Item, Synced
from .messages import Message
from .mirror import Mirror, count, is_expired
from .outbox import Completed, Outbox, is_retryable

Frame = dict[str, Any]
NEVER_US = 1 << 62
"""A time after every other one."""


@dataclass(slots=True)
class Outcome:
    """The consequences of one frame: frames to send, changes of the copy, and messages that left the outbox."""

    send: list[Frame] = field(default_factory=list)
    changes: list[Change] = field(default_factory=list)
    completed: list[Completed] = field(default_factory=list)
    refusal: tuple[CloseCode, str] | None = None
    """Close code and reason if the server refused the `hello`: the connection must be closed."""


class Synchronizer:
    """The copy of a view and the messages of its outbox. Both live on over any number of connections, one at a time."""

    def __init__(self, new_id: Callable[[], str], *, check_s: float = 300.0) -> None:
        """`new_id` returns a globally unique message id; the digest is compared every `check_s` seconds."""
        self.mirror = Mirror()
        self.outbox = Outbox(new_id)
        self.is_synced = False
        """Whether the connection is open and its first sync object was applied."""
        self.mismatches = 0
        """Copies whose digest differed from the server's; each was replaced by a full copy."""
        self._check_us = round(check_s * 1_000_000)
        self._check_at_us = NEVER_US
        self._is_repairing = False

    def opened(self) -> Frame:
        """Start a new connection and return the position for its `hello`."""
        self.closed()
        self.outbox.reconnected()
        return self.position()

    def closed(self) -> None:
        """End the connection."""
        self.is_synced = self._is_repairing = False
        self._check_at_us = NEVER_US

    def position(self) -> Frame:
        """Return cursor and digest of the copy; empty without a copy."""
        return {} if self.mirror.cursor is None else {"cursor": self.mirror.cursor, "digest": self.mirror.digest}

    def put(self, message: Message, now_us: int) -> int:
        """Enqueue a message and return its ref; `sendable` returns the frame."""
        return self.outbox.put(message, self.mirror.items, now_us)

    def sendable(self, monotonic_us: int) -> list[Frame]:
        """Return the messages to send now, and mark them as sent."""
        return self.outbox.sendable(monotonic_us) if self.is_synced else []

    def receive(self, frame: Mapping[str, Any], monotonic_us: int) -> Outcome:
        """Process one frame of the server."""
        outcome = Outcome()
        if "ref" in frame:
            outcome.completed = self.outbox.answered(frame, self.mirror.seq, monotonic_us)
        elif "problem" in frame:
            self._on_problem(frame["problem"], monotonic_us, outcome)
        else:
            outcome.changes = self.mirror.apply(frame)
            for change in outcome.changes:
                if isinstance(change, Synced):
                    self._on_synced(change, monotonic_us, outcome.send)
            outcome.completed = self.outbox.reached(self.mirror.seq)
        outcome.send += self.sendable(monotonic_us)
        return outcome

    def tick(self, monotonic_us: int) -> list[Frame]:
        """Return the frames that are due: messages after a wait, and the comparison of the digest."""
        frames = self.sendable(monotonic_us)
        if self.is_synced and monotonic_us >= self._check_at_us:
            self._check_at_us = monotonic_us + self._check_us
            frames.append({"resync": True if self.mirror.needs_full else self.position()})
        return frames

    def next_tick_us(self, monotonic_us: int) -> int | None:
        """Return the next time at which `tick` must be called; None if there is none."""
        moments = [self._check_at_us] if self.is_synced else []
        if self.is_synced and (hold_s := self.outbox.hold_s(monotonic_us)):
            moments.append(monotonic_us + round(hold_s * 1_000_000))
        return min(moments, default=None)

    def shown(self, now_us: int) -> dict[str, Item]:
        """Return the items to show: the copy with the outbox overlaid, without items that have expired (L6)."""
        shown = self.outbox.overlay(self.mirror.items)
        return {id_: item for id_, item in shown.items() if not is_expired(item, now_us)}

    def badge(self, now_us: int) -> int:
        """Return the number of shown items that count for the badge."""
        return count(self.shown(now_us), self.mirror.uncounted)

    def _on_synced(self, change: Synced, monotonic_us: int, send: list[Frame]) -> None:
        self.is_synced = True
        self._check_at_us = monotonic_us + self._check_us
        self.mismatches += not change.is_proven
        if change.kind == "full":
            self.outbox.full_copy_at(self.mirror.seq)
        # Only once: if a full copy does not match its digest, the server is wrong, and asking again would never end.
        if self.mirror.needs_full and not self._is_repairing:
            send.append({"resync": True})
        self._is_repairing = self.mirror.needs_full

    def _on_problem(self, problem: Mapping[str, Any], monotonic_us: int, outcome: Outcome) -> None:
        """Process a problem without a ref: it answers the hello or a resync, not a message of the outbox."""
        retry_after_ms = problem.get("retry_after_ms", 1_000)
        if self.is_synced:
            self._check_at_us = min(self._check_at_us, monotonic_us + retry_after_ms * 1_000)
        elif is_retryable(problem):
            outcome.refusal = CloseCode.UNAVAILABLE, f"retry_after_ms={retry_after_ms}"
        else:
            outcome.refusal = CloseCode.BAD_PROTOCOL, f"{problem.get('code')}: {problem.get('detail')}"
