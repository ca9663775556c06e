"""Messages of a history as commits of the reference model, at the server times that readers saw."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from gregor.core.errors import Problem
from gregor.core.ids import BACKEND, normalize_prefixes
from gregor.core.items.sync import NO_EPOCH
from gregor.core.limits import DAY_US, Limits
from gregor.core.messages.model import Commit, ExternalMessage, Message, Sender, Update, UserReset
from gregor.core.messages.parse import parse_message
from gregor.core.messages.plan import plan
from gregor.core.times import MAX_TIME_US

from .evidence import UserEvidence, time_us
from .format import HistoryError, HistoryHeader, SendOp, decode_json

_MANY = 1 << 40
LIMITS = Limits(
    message_bytes=_MANY,
    body_bytes=_MANY,
    creations=_MANY,
    ids=_MANY,
    intervals=_MANY,
    skip=_MANY,
    live=_MANY,
    live_bytes=_MANY,
    tombstones=_MANY,
    device_dismissals=_MANY,
    spans=_MANY,
    spans_per_prefix=_MANY,
    skipped=_MANY,
    message_ids=_MANY,
    external_count=_MANY,
    external_bytes=_MANY,
    history=_MANY,
    future_us=400 * DAY_US,
)
"""No bound: a message over a bound of the deployment was refused, and the checker does not repeat the refusal."""
SKEW_US = 2_000_000
"""Tolerated difference between the clocks of the recorder and of a server."""


@dataclass(slots=True)
class SentMessage:
    """A recorded attempt with its parsed message. ``created_ids``: the ids that it creates.

    ``placed_at``: the seq at which a message with an unknown outcome, or a delayed one, took effect.
    ``is_first_execution``: a server process may have executed this message, lost the reply, and executed it again. The
    receipt is then of the second execution, which was without effect.
    """

    op: SendOp
    message: Message
    sender: Sender
    placed_at: int | None = None
    is_first_execution: bool = False
    created_ids: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        content = self.message.content
        self.created_ids = tuple(item.id for item in content.create) if isinstance(content, Update) else ()

    @property
    def is_delayed(self) -> bool:
        """Whether its receipt says that it is committed later."""
        return self.op.receipt is not None and self.op.receipt.not_before is not None

    @property
    def not_before_us(self) -> int:
        """The time before which a delayed message is not committed."""
        receipt = self.op.receipt
        return 0 if receipt is None or receipt.not_before is None else time_us(receipt.not_before)

    @property
    def invoked(self) -> int:
        """The earliest moment, in ns, at which it can have taken effect."""
        return self.op.invoked

    @property
    def is_flush(self) -> bool:
        """Whether it starts a new epoch."""
        return isinstance(self.message.content, UserReset)

    @property
    def is_external(self) -> bool:
        """Whether it is never part of the state."""
        return isinstance(self.message.content, ExternalMessage)

    @property
    def epoch(self) -> str:
        """The epoch in its receipt, as six hex digits; empty if there is none."""
        return "" if self.op.receipt is None else self.op.receipt.cursor[:6]

    @property
    def seq(self) -> int:
        """The seq in its receipt; 0 if there is none."""
        return 0 if self.op.receipt is None else self.op.receipt.seq

    @property
    def has_effect(self) -> bool:
        """Whether its receipt says that it had an effect at its seq."""
        receipt = self.op.receipt
        return receipt is not None and not receipt.unchanged and receipt.not_before is None


def sent_message(op: SendOp) -> SentMessage | None:
    """Return the parsed message of an attempt; None if it was refused and is not a valid message."""
    try:
        message = parse_message(decode_json(op.message), LIMITS)
    except (Problem, ValueError, RecursionError) as error:
        if op.outcome == "ok":
            raise HistoryError(f"line {op.line}: the server accepted an invalid message: {error}") from None
        return None
    device = op.device or message.device or BACKEND
    categories = None if op.categories is None else normalize_prefixes(op.categories)
    return SentMessage(op, message, Sender(device, categories))


class Planner:
    """Plans messages at the time of the server, as far as readers saw it; else at the times of the request."""

    def __init__(self, header: HistoryHeader, evidence: UserEvidence) -> None:
        self._header = header
        self._evidence = evidence

    def wall_us(self, at_ns: int) -> int:
        """Return the Unix time of a recorded moment, in µs."""
        return self._header.wall_us + (at_ns - self._header.clock_ns) // 1_000

    def at_ns(self, at_us: int) -> int:
        """Return the recorded moment of a Unix time in µs."""
        return self._header.clock_ns + (at_us - self._header.wall_us) * 1_000

    def is_before(self, at_ns: int, at_us: int) -> bool:
        """Return whether a recorded moment is before a Unix time, beyond the tolerance of clocks."""
        return self.wall_us(at_ns) < at_us - SKEW_US

    def is_before_us(self, at_us: int, at_ns: int) -> bool:
        """Return whether a Unix time is before a recorded moment, beyond the tolerance of clocks."""
        return at_us < self.wall_us(at_ns) - SKEW_US

    def commits(self, sent: SentMessage) -> Iterator[Commit]:
        """Yield the possible commits of a message, the likeliest first."""
        exact_us = self._stamp_us(sent)
        if exact_us is not None:
            yield self.commit(sent, exact_us)
            return
        began_us, ended_us = self.wall_us(sent.op.invoked), self.wall_us(sent.op.ended)
        if sent.is_delayed:
            began_us = ended_us = sent.not_before_us
        yield self.commit(sent, (began_us + ended_us) // 2)
        content = sent.message.content
        if isinstance(content, Update) and (content.create or content.intervals):
            yield self.commit(sent, began_us - SKEW_US)
            yield self.commit(sent, ended_us + SKEW_US)

    def commit(self, sent: SentMessage, now_us: int) -> Commit:
        """Return the commit of a message at one time."""
        now_us = min(max(now_us, 0), MAX_TIME_US)  # the times of a damaged file may be any number
        return plan(sent.message, sent.sender, now_us, bytes.fromhex(sent.epoch) or NO_EPOCH, LIMITS)

    def _stamp_us(self, sent: SentMessage) -> int | None:
        """Return the time at which the server planned a message, if it stamped an item that a reader saw."""
        content = sent.message.content
        if not isinstance(content, Update):
            return None
        stamped = [item.id for item in content.create if item.created_us is None]
        for place, item_id in enumerate(stamped):
            created_us = self._evidence.created_us(item_id)
            if created_us is not None:
                return created_us - place
        return None


def describe(sent: SentMessage) -> str:
    """Return a message in a few words, for a finding."""
    content, by = sent.message.content, sent.sender.device or "the backend"
    if isinstance(content, ExternalMessage):
        words = f"an external message of {content.system}"
    elif isinstance(content, Update):
        parts = []
        if content.create:
            parts.append("creates " + _listed(item.id for item in content.create))
        if content.ids:
            parts.append("dismisses " + _listed(content.ids))
        if content.intervals:
            parts.append(
                "dismisses " + _listed(f"{each.category or '*'}" for each in content.intervals) + " by interval"
            )
        words = "a message that " + " and ".join(parts)
    else:
        words = "a flush"
    return f"{words}, sent by {by}"


def _listed(names: Iterator[str] | tuple[str, ...]) -> str:
    names = tuple(names)
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
