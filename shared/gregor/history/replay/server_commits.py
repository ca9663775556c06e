"""Commits that no request made: expiry, reminders, evictions, aggregation, flushes of all users, forgotten devices."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Set

from gregor.core.errors import Problem
from gregor.core.messages.model import Commit, RemovalReason, Sender
from gregor.core.messages.parse import parse_message
from gregor.core.messages.plan import plan
from gregor.core.times import format_time
from gregor.history.evidence import SeenChange, SeenItem, time_us
from gregor.history.format import ForgetOp
from gregor.history.messages import LIMITS, SKEW_US, Planner, SentMessage
from gregor.reference import agenda
from gregor.reference.model import UserState

_BY_SERVER = {
    "expired": RemovalReason.EXPIRED,
    "displaced": RemovalReason.DISPLACED,
    "aggregated": RemovalReason.AGGREGATED,
}

_MAX_RESETS = 1_000
"""If more flushes than these are missing between two messages, the messages belong to different histories."""


class ServerCommits:
    """Finds the commit of the server that explains a seq. ``forgets``: requests that deleted a device."""

    def __init__(self, planner: Planner, forgets: Iterable[ForgetOp]) -> None:
        self._planner = planner
        self.forgets = list(forgets)

    def of_change(self, user: UserState, seen: SeenChange) -> Iterator[Commit]:
        """Yield the commits that may explain a change that readers saw."""
        at_us = self._at_us(seen)
        for item_id, at in seen.remind.items():
            record = user.live.get(item_id)
            if record is not None and time_us(at) in record.item.remind_at_us:
                yield Commit(at_us, user.epoch, remind=(item_id, record.item.remind_at_us.index(time_us(at))))
        reasons = {reason for reason in seen.gone.values() if reason in _BY_SERVER}
        for reason in reasons:
            if reason == "aggregated" or not seen.created:
                yield self._commit(user, seen, _BY_SERVER[reason])
        if seen.is_flush:
            yield self.reset(user)
        for op in list(self.forgets):
            yield Commit(at_us, user.epoch, forget_device=op.device)

    def by_force(self, user: UserState, seen: SeenChange) -> Commit:
        """Return a commit with exactly the changes that readers saw, so that the model can continue after a finding."""
        return self._commit(user, seen, RemovalReason.DISMISSED)

    def due(self, user: UserState, until_us: int | None, reminded: Set[tuple[str, float]]) -> Iterator[Commit]:
        """Yield the commits that may have happened unseen until a time (None: any time).

        ``reminded``: the reminders that readers saw, at another seq.
        """
        at_us = (1 << 55) if until_us is None else until_us + SKEW_US
        for op in list(self.forgets):
            yield Commit(at_us, user.epoch, forget_device=op.device)
        expiry = agenda.expiry_commit(user, at_us, user.epoch)
        if expiry is not None:
            yield expiry
        for name, due_us in sorted(user.agenda.items(), key=lambda entry: entry[1]):
            record = user.live.get(name[1:])
            is_due = name[0] == agenda.REMIND and due_us <= at_us
            if is_due and record is not None and (name[1:], float(format_time(due_us))) not in reminded:
                yield Commit(due_us, user.epoch, remind=(name[1:], record.item.remind_at_us.index(due_us)))

    def too_early(self, user: UserState, commit: Commit, seen: SeenChange) -> Iterator[tuple[str, str]]:
        """Yield the findings about a reminder or an expiry that readers saw before its time."""
        if not seen.at:
            return
        for item_id, at in seen.remind.items():
            if self._planner.is_before(seen.at, time_us(at)):
                yield "early", f"the reminder of {item_id} fired before its time {at}"
        if commit.reason is RemovalReason.EXPIRED:
            for item_id in commit.ids:
                record = user.live.get(item_id)
                expires_us = None if record is None else record.item.expires_us
                if expires_us is None or self._planner.is_before(seen.at, expires_us):
                    when = "has no expiry" if expires_us is None else f"expires at {format_time(expires_us).decode()}"
                    yield "early", f"{item_id} left as expired, but it {when}"

    @staticmethod
    def reset(user: UserState) -> Commit:
        """Return the commit of a flush."""
        return Commit(0, user.epoch, is_reset=True)

    @staticmethod
    def is_reset_due(user: UserState, following: SentMessage) -> bool:
        """Return whether the epoch of the next message shows that an unseen flush came before it."""
        if not following.epoch or not user.seq:
            return False
        resets = int(following.epoch, 16) - int.from_bytes(user.epoch, "big") - following.is_flush
        return 0 < resets <= _MAX_RESETS

    def note_forgotten(self, device: str) -> None:
        """Remove the requests that deleted a device, because their commit was found."""
        self.forgets = [op for op in self.forgets if op.device != device]

    def _at_us(self, seen: SeenChange) -> int:
        return self._planner.wall_us(seen.at) if seen.at else 0

    def _commit(self, user: UserState, seen: SeenChange, reason: RemovalReason) -> Commit:
        made = Commit(self._at_us(seen), user.epoch)
        if seen.created:
            made = _creating(seen.created, user) or made
        return Commit(made.now_us, user.epoch, Sender(), made.creations, tuple(seen.gone), reason=reason)


def _creating(items: dict[str, SeenItem], user: UserState) -> Commit | None:
    """Return the commit that creates items as readers saw them."""
    documents = {
        item_id: {name: value for name, value in item.document.items() if name != "trimmed"}
        for item_id, item in items.items()
    }
    try:
        message = parse_message({"system": "gregor", "body": {"create": documents}}, LIMITS)
        return plan(message, Sender(), min(item.created_us for item in items.values()), user.epoch, LIMITS)
    except Problem:
        return None
