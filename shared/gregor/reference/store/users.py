"""Executable specification: never runs in production. Users: commits and reads of their state."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence

from msgspec.structs import replace

from gregor.core.close_codes import CloseCode
from gregor.core.errors import Problem, drop_tracebacks
from gregor.core.ids import BACKEND, Prefixes
from gregor.core.items.digest import digest_items
from gregor.core.items.sync import NO_EPOCH, Cursor, Full, HistoryEntry, SyncResult, UserPosition, UserSizes, View
from gregor.core.limits import CLOCK_LEEWAY_US
from gregor.core.messages.model import Commit, Receipt, eviction_commit
from gregor.core.notify.ledger import delivery_path
from gregor.reference import agenda, queries, retention
from gregor.reference.commit import apply_outcome, count_by_device, decide
from gregor.reference.model import UserState
from gregor.store.contract.devices import revoked_token
from gregor.store.contract.store import CommitResult
from gregor.store.deleted_users import user_id_hash
from gregor.store.exported import (
    AgendaEntry,
    ExternalEntry,
    FirstSeen,
    LedgerEntry,
    RememberedInterval,
    RememberedMessageId,
    RemovedDevice,
    RevocationEntry,
    SessionEntry,
    StoredEntry,
    StoredItemEntry,
    StoredTombstone,
    TicketCount,
)

from .data import MemoryData, UserData, agenda_entries


class MemoryUsers:
    """``contract.Users`` in memory."""

    def __init__(self, data: MemoryData) -> None:
        self._data = data

    async def commit(self, uid: str, commit: Commit) -> Receipt:
        """See ``contract.Users.commit``."""
        return self.commit_now(uid, commit)

    async def commit_many(self, commits: Sequence[tuple[str, Commit]]) -> list[CommitResult]:
        """See ``contract.Users.commit_many``."""
        results: list[CommitResult] = []
        for uid, commit in commits:
            try:
                results.append(self.commit_now(uid, commit))
            except Problem as problem:
                results.append(drop_tracebacks(problem))
        return results

    def commit_now(self, uid: str, commit: Commit) -> Receipt:
        """Commit without a turn of the event loop, for callers that do more in the same step."""
        user = self._with_due_commits(uid, commit.now_us, commit.epoch_seed, can_reset=not commit.is_reset)
        self._check_sender(uid, user, commit)
        if commit.is_for_known and uid not in self._data.due:
            return Receipt(user.epoch if user.is_seen else commit.epoch_seed, user.seq, is_unchanged=True)
        if commit.forget_device is not None and not user.is_seen:
            return Receipt(commit.epoch_seed, user.seq, is_unchanged=True)
        receipt = self._apply(uid, user, commit)
        if user.is_seen:
            self._data.users[uid] = user
        if (following := eviction_commit(commit, receipt)) is not None:
            self._apply(uid, user, following)
        return receipt

    def _check_sender(self, uid: str, user: UserState, commit: Commit) -> None:
        """Raise ``unauthorised`` if a device whose token is revoked would create the user."""
        sender = commit.sender
        if not user.is_seen and 0 < sender.issued_us <= (self._data.revoked_before(uid, sender.device) or 0):
            raise revoked_token()

    async def rehearse(self, uid: str, commit: Commit) -> Receipt:
        """See ``contract.Users.rehearse``."""
        user = self._with_due_commits(uid, commit.now_us, commit.epoch_seed, can_reset=not commit.is_reset)
        self._check_sender(uid, user, commit)
        outcome = decide(user, commit, self._data.limits)
        receipt = outcome.receipt
        hidings = ((item_id, frozenset(outcome.records[item_id].hidings)) for item_id in receipt.created)
        epoch = user.epoch if user.is_seen else receipt.epoch
        return replace(receipt, epoch=epoch, seq=user.seq, hidden_by=tuple(each for each in hidings if each[1]))

    async def sync(
        self,
        uid: str,
        view: View,
        cursor: Cursor | None,
        digest: bytes | None,
        now_us: int,
        systems: Prefixes = None,
        epoch_seed: bytes = NO_EPOCH,
    ) -> SyncResult:
        """See ``contract.Users.sync``."""
        user = self._with_due_commits(uid, now_us, epoch_seed)
        return queries.answer_cursor(user, view, cursor, digest, systems, self._data.limits, now_us)

    async def state(self, uid: str, view: View, now_us: int) -> Full:
        """See ``contract.Users.state``."""
        return queries.state(self._with_due_commits(uid, now_us), view)

    async def state_at(self, uid: str, view: View, at_us: int, now_us: int) -> Full:
        """See ``contract.Users.state_at``."""
        return queries.state_at(self._collected(uid, now_us), view, at_us)

    async def item(self, uid: str, item_id: str, view: View, now_us: int) -> HistoryEntry | None:
        """See ``contract.Users.item``."""
        return queries.item(self._collected(uid, now_us), item_id, view)

    async def history(
        self, uid: str, view: View, before: tuple[int, str] | None, limit: int, now_us: int
    ) -> list[HistoryEntry]:
        """See ``contract.Users.history``."""
        return queries.history(self._collected(uid, now_us), view, before, limit)

    async def heads(self, uids: Sequence[str]) -> list[UserPosition | None]:
        """See ``contract.Users.heads``."""
        users = map(self._data.users.get, uids)
        return [None if user is None else user.head for user in users]

    async def reachable_heads(self, uids: Sequence[str]) -> dict[str, UserPosition | None]:
        """See ``contract.Users.reachable_heads``."""
        return dict(zip(uids, await self.heads(uids), strict=True))

    async def sizes(self, uid: str) -> UserSizes:
        """See ``contract.Users.sizes``."""
        user, owner = self._data.users.get(uid), self._data.owners.get(uid)
        delivered = 0 if owner is None else len(owner.delivered)
        if user is None:
            return UserSizes(0, 0, delivered)
        gone, dismissals = len(user.gone) + len(user.tombstones), count_by_device(user)
        return UserSizes(len(user.live), gone, delivered, user.live_bytes, dismissals)

    async def wrong_digests(self, uid: str) -> list[str]:
        """See ``contract.Users.wrong_digests``. Only the digest of the shared view is stored."""
        user = self._data.users.get(uid)
        if user is None:
            return []
        shared = digest_items((name, record.item.json) for name, record in user.live.items() if record.is_shared)
        return [] if user.digest == shared else [BACKEND]

    async def stored(self, uid: str) -> AsyncIterator[StoredEntry]:
        """See ``contract.Users.stored``."""
        user, owner, data = self._data.users.get(uid), self._data.owners.get(uid), self._data
        entries: list[StoredEntry] = [] if user is None else list(_state_entries(user))
        if user is not None or owner is not None:
            entries += (AgendaEntry(name, at_us) for name, at_us in data.agenda(uid).items())
        if owner is not None:
            entries += (
                LedgerEntry(each, data.dead.get(delivery_path(each.intent))) for each in owner.deliveries.values()
            )
            entries += (FirstSeen(device, owner.first_seen_us[device]) for device in owner.registrations)
            entries += (
                SessionEntry(device, lease.session) for device, held in owner.leases.items() for lease in held.values()
            )
            entries += (RevocationEntry(device, at_us) for device, at_us in owner.revoked.items())
        tickets = sum(ticket.uid == uid for ticket, _ in data.tickets.values())
        entries += [TicketCount(tickets)] if tickets else []
        for entry in entries:
            yield entry

    async def reset_partitions(self, number: int, partitions: Sequence[int], spread_s: int) -> frozenset[int]:
        """See ``contract.Users.reset_partitions``: all users are in partition 0."""
        if partitions and number > self._data.reset_number:
            self._data.reset_number, self._data.spread_s = number, spread_s
            self._data.generation = (self._data.generation + 1) % (1 << 16)
        return frozenset(partitions)

    async def announce_reset(self, spread_s: int) -> None:
        """See ``contract.Users.announce_reset``."""
        data = self._data
        data.announce_to_all(b"F" + data.generation.to_bytes(2, "big") + spread_s.to_bytes(2, "big"))

    async def delete_user(self, uid: str, now_us: int) -> None:
        """See ``contract.Users.delete_user``."""
        data = self._data
        data.users.pop(uid, None)
        data.due.pop(uid, None)
        data.dead = {path: at_us for path, at_us in data.dead.items() if not path.startswith(f"{uid}/")}
        revoked = data.owner(uid).revoked
        data.owners[uid] = UserData(revoked=revoked)
        data.push_holders = {token: holder for token, holder in data.push_holders.items() if holder[0] != uid}
        data.tickets = {text: kept for text, kept in data.tickets.items() if kept[0].uid != uid}
        data.forgotten[user_id_hash(uid)] = now_us
        data.revoke(uid, None, now_us + CLOCK_LEEWAY_US)
        data.control(uid, {"close": {"device": None, "code": CloseCode.REVOKED}})

    async def deleted_since(self, since_us: int) -> frozenset[str]:
        """See ``contract.Users.deleted_since``."""
        return frozenset(trace for trace, at_us in self._data.forgotten.items() if at_us >= since_us)

    async def commit_due(self, uid: str, now_us: int) -> None:
        """See ``contract.Users.commit_due``."""
        self._with_due_commits(uid, now_us)

    async def collect(self, uid: str, now_us: int) -> int:
        """See ``contract.Users.collect``."""
        user = self._data.users.get(uid)
        return 0 if user is None else self._collect(uid, user, now_us)

    def _with_due_commits(
        self, uid: str, now_us: int, epoch_seed: bytes = NO_EPOCH, can_reset: bool = True
    ) -> UserState:
        """Return the user after its due commits: a reset of all users, then retention, then expiry (L14, L4, L6).

        ``can_reset``: if false, the reset is left to a later call. An unknown user is an empty one that is not stored.
        """
        user = self._data.users.get(uid)
        if user is None:
            return UserState(generation=self._data.generation)
        if can_reset and user.generation != self._data.generation:
            self._apply(uid, user, Commit(now_us, epoch_seed, is_reset=True, spread_s=self._data.spread_s))
        if retention.is_due(user, self._data.limits, now_us):
            self._collect(uid, user, now_us)
        expiry = agenda.expiry_commit(user, now_us, epoch_seed)
        if expiry is not None:
            self._apply(uid, user, expiry)
        return user

    def _collected(self, uid: str, now_us: int) -> UserState:
        """Return the user after its due commits, with a history within its limits. A reset is left to a later call."""
        user = self._with_due_commits(uid, now_us, can_reset=False)
        if retention.is_over(user, self._data.limits):
            self._collect(uid, user, now_us)
        return user

    def _collect(self, uid: str, user: UserState, now_us: int) -> int:
        count = retention.collect(user, self._data.limits, now_us)
        self._data.reschedule(uid, now_us, user)
        return count

    def _apply(self, uid: str, user: UserState, commit: Commit) -> Receipt:
        limits = self._data.limits
        commit = replace(commit, records_removals=True) if self._data.recorded_events.removals else commit
        before = agenda_entries(user)
        outcome = decide(user, commit, limits)
        apply_outcome(user, commit, outcome, limits)
        if outcome.external is not None:
            retention.trim_externals(user, limits, commit.now_us)
        if commit.is_reset and not outcome.receipt.is_unchanged:
            user.generation = self._data.generation
        if outcome.announcement is not None:
            if commit.forget_device is not None:
                # Its cursors end before this seq: it must not see a frame of this commit or of a later one.
                self._data.close_device(uid, commit.forget_device)
            self._data.announce(uid, outcome.announcement.encode())
        new = [max(at_us, commit.now_us) for name, at_us in agenda_entries(user).items() if before.get(name) != at_us]
        self._data.note(uid, new)
        if retention.is_overfull(user, limits):
            self._collect(uid, user, commit.now_us)
        return outcome.receipt


def _state_entries(user: UserState) -> Iterator[StoredEntry]:
    """Yield all that a state remembers, except for what is derived: digests and indexes."""
    for item_id, record in (user.live | user.gone).items():
        json, hidings = record.item.json, dict(record.hidings)
        yield StoredItemEntry(item_id, record.seq, json, record.gone, hidings, record.is_trimmed)
    for item_id, tombstones in user.tombstones.items():
        for each in tombstones:
            yield StoredTombstone(item_id, each.sender.device, each.at_us, each.sender.category_filter)
    for spans in user.spans.values():
        for kept in spans:
            span = kept.span
            times = (span.begin_us, span.end_us, kept.at_us)
            yield RememberedInterval(span.category, span.is_prefix, kept.device, *times, tuple(sorted(span.skip)))
    yield from (RememberedMessageId(*key.split("\0")) for key in user.message_ids)
    yield from (RemovedDevice(device, seq) for device, seq in user.forgotten.items())
    yield from (ExternalEntry(each.external, each.at_us) for each in user.externals)
