"""The state of users in memory: applies what ``core.state`` decides, answers what ``core.reading`` reads."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec.structs import replace

from gregor.core.close_codes import CloseCode
from gregor.core.errors import Problem
from gregor.core.ids import Prefixes
from gregor.core.items.sync import NO_EPOCH, Cursor, Full, HistoryEntry, SyncResult, UserPosition, View
from gregor.core.messages.model import Commit, Receipt, eviction_commits
from gregor.reference import agenda, retention
from gregor.reference import commit as state
from gregor.reference import queries as reading
from gregor.reference.model import UserState
from gregor.store.deleted_users import deleted_user_hash

from .data import MemoryData, UserData, entries_of


class MemoryUsers:
    """``contract.Users`` over dictionaries."""

    def __init__(self, shelf: MemoryData) -> None:
        self._shelf = shelf

    async def commit(self, uid: str, commit: Commit) -> Receipt:
        """As ``Users`` says."""
        return self.commit_now(uid, commit)

    async def commit_many(self, commits: Sequence[tuple[str, Commit]]) -> list[Receipt | Problem]:
        """As ``Users`` says."""
        results: list[Receipt | Problem] = []
        for uid, commit in commits:
            try:
                results.append(self.commit_now(uid, commit))
            except Problem as problem:
                results.append(problem)
        return results

    def commit_now(self, uid: str, commit: Commit) -> Receipt:
        """``commit`` without a turn of the event loop, for those who do more in the same step."""
        user = self._settled(uid, commit.now_us, commit.epoch_seed, is_flushing=not commit.is_reset)
        receipt = self._apply(uid, user, commit)
        if user.is_seen:
            self._shelf.users[uid] = user
        for following in eviction_commits(commit, receipt):
            self._apply(uid, user, following)
        return receipt

    async def rehearse(self, uid: str, commit: Commit) -> Receipt:
        """As ``Users`` says."""
        user = self._settled(uid, commit.now_us, commit.epoch_seed, is_flushing=not commit.is_reset)
        receipt = state.decide(user, commit, self._shelf.limits).receipt
        return replace(receipt, epoch=user.epoch if user.is_seen else receipt.epoch, seq=user.seq)

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
        """As ``Users`` says."""
        user = self._settled(uid, now_us, epoch_seed)
        return reading.answer(user, view, cursor, digest, systems, self._shelf.limits, now_us)

    async def state(self, uid: str, view: View, now_us: int) -> Full:
        """As ``Users`` says."""
        return reading.state(self._settled(uid, now_us), view)

    async def state_at(self, uid: str, view: View, at_us: int, now_us: int) -> Full:
        """As ``Users`` says."""
        return reading.state_at(self._collected(uid, now_us), view, at_us)

    async def item(self, uid: str, item_id: str, view: View, now_us: int) -> HistoryEntry | None:
        """As ``Users`` says."""
        return reading.item(self._collected(uid, now_us), item_id, view)

    async def history(
        self, uid: str, view: View, before: tuple[int, str] | None, limit: int, now_us: int
    ) -> list[HistoryEntry]:
        """As ``Users`` says."""
        return reading.history(self._collected(uid, now_us), view, before, limit)

    async def heads(self, uids: Sequence[str]) -> list[UserPosition | None]:
        """As ``Users`` says."""
        users = map(self._shelf.users.get, uids)
        return [None if user is None else user.head for user in users]

    async def reset_all_users(self, spread_s: int) -> None:
        """As ``Users`` says."""
        shelf = self._shelf
        shelf.generation = (shelf.generation + 1) % (1 << 16)
        shelf.spread_s = spread_s
        shelf.announce_to_all(b"F" + shelf.generation.to_bytes(2, "big") + spread_s.to_bytes(2, "big"))

    async def delete_user(self, uid: str, now_us: int) -> None:
        """As ``Users`` says."""
        shelf = self._shelf
        shelf.users.pop(uid, None)
        shelf.due.pop(uid, None)
        shelf.dead = {path: at_us for path, at_us in shelf.dead.items() if not path.startswith(f"{uid}/")}
        revoked = shelf.owner(uid).revoked
        shelf.owners[uid] = UserData(revoked=revoked)
        shelf.push_holders = {token: holder for token, holder in shelf.push_holders.items() if holder[0] != uid}
        shelf.forgotten[deleted_user_hash(uid)] = now_us
        shelf.revoke(uid, None, now_us)
        shelf.control(uid, {"close": {"device": None, "code": CloseCode.REVOKED}})

    async def deleted_since(self, since_us: int) -> frozenset[str]:
        """As ``Users`` says."""
        return frozenset(trace for trace, at_us in self._shelf.forgotten.items() if at_us >= since_us)

    async def commit_due(self, uid: str, now_us: int) -> None:
        """As ``Users`` says."""
        self._settled(uid, now_us)

    async def collect(self, uid: str, now_us: int) -> int:
        """As ``Users`` says."""
        user = self._shelf.users.get(uid)
        return 0 if user is None else self._collect(uid, user, now_us)

    def _settled(self, uid: str, now_us: int, epoch_seed: bytes = NO_EPOCH, is_flushing: bool = True) -> UserState:
        """The user after what is due: a flush of all that it has not seen, then what is to be forgotten, then the
        expiry of items (L14, L4, L6). Not ``is_flushing``: the flush is left to a later call.

        One never seen is an empty one, and is not kept: reading creates nothing.
        """
        user = self._shelf.users.get(uid)
        if user is None:
            return UserState(generation=self._shelf.generation)
        if is_flushing and user.generation != self._shelf.generation:
            self._apply(uid, user, Commit(now_us, epoch_seed, is_reset=True, spread_s=self._shelf.spread_s))
        if retention.is_due(user, self._shelf.limits, now_us):
            self._collect(uid, user, now_us)
        expiry = agenda.expiry(user, now_us, epoch_seed)
        if expiry is not None:
            self._apply(uid, user, expiry)
        return user

    def _collected(self, uid: str, now_us: int) -> UserState:
        """The user after what is due, and with a history within its bounds; a flush of all is left to a later call."""
        user = self._settled(uid, now_us, is_flushing=False)
        if retention.is_over(user, self._shelf.limits):
            self._collect(uid, user, now_us)
        return user

    def _collect(self, uid: str, user: UserState, now_us: int) -> int:
        count = retention.collect(user, self._shelf.limits, now_us)
        self._shelf.reschedule(uid, user)
        return count

    def _apply(self, uid: str, user: UserState, commit: Commit) -> Receipt:
        limits = self._shelf.limits
        commit = replace(commit, is_watched=True) if self._shelf.recorded_events.removals else commit
        before = entries_of(user)
        outcome = state.decide(user, commit, limits)
        state.apply_outcome(user, commit, outcome, limits)
        if outcome.external is not None:
            retention.trim_externals(user, limits, commit.now_us)
        if commit.is_reset and not outcome.receipt.is_unchanged:
            user.generation = self._shelf.generation
        if outcome.announcement is not None:
            self._shelf.announce(uid, outcome.announcement.encode())
        new = [at_us for name, at_us in entries_of(user).items() if before.get(name) != at_us]
        self._shelf.note(uid, new)
        if retention.is_overfull(user, limits):
            self._collect(uid, user, commit.now_us)
        return outcome.receipt
