"""The command of a commit: which script, which keys of the user, which arguments."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Final

from gregor.core.items.codec import pack_item
from gregor.core.limits import Limits
from gregor.core.messages.model import Commit, Creation, RemovalReason
from gregor.redis.commands import Script, ScriptCall
from gregor.redis.connection import pack_script
from gregor.store.redis import scripts
from gregor.store.redis.keys import CommitKeys, Keys

from .interval_search import SEARCH_PAGE, pack_search_above
from .record_codec import GENERAL, KNOWN, RECORD_REMOVALS, TRACED, commit_arguments, commit_limits, pack_commit_fast

CACHED_OPENINGS: Final = 16_384
"""Users whose creation commands a process keeps, with and without timers.

They take 1.4 KB for a uid of 128 characters, so at most 23 MB. Another user costs 4 µs more a message.
"""

_EMPTY: Final = len(b"$0\r\n\r\n")
_SIZES: Final = tuple(b"\r\n$%d\r\n" % size for size in range(1_024))
"""The RESP header of an argument by its size, with the end of the argument before it."""


class CommitCommands:
    """The commit commands of one store. ``allow_oom``, ``general`` and ``search_page``: see ``RedisStore``."""

    def __init__(
        self, keys: Keys, limits: Limits, *, allow_oom: bool, general: bool, search_page: int = SEARCH_PAGE
    ) -> None:
        self._keys = keys
        self._search = pack_search_above(search_page)
        self._opening = lru_cache(CACHED_OPENINGS)(self._open)
        self._timed_opening = lru_cache(CACHED_OPENINGS)(self._open_timed)
        self._options = GENERAL if general else 0
        self._grow = scripts.load(*scripts.COMMIT)
        at_maxmemory = scripts.COMMIT_AT_MAXMEMORY
        self._shrink = scripts.load(*at_maxmemory, flags="allow-oom") if allow_oom else self._grow
        # The same scripts, for commits that a cluster client may repeat.
        self._repeatable_grow = replace(self._grow, is_repeatable=True)
        self._repeatable_shrink = replace(self._shrink, is_repeatable=True)
        self._bounds = commit_limits(limits)

    @property
    def scripts(self) -> tuple[Script, ...]:
        """The scripts that the commands run."""
        return (self._grow, self._shrink)

    def of(
        self,
        uid: str,
        commit: Commit,
        options: int = 0,
        *,
        records_removals: bool = False,
        has_all_keys: bool = False,
        may_add: bool = False,
        search: bytes | None = None,
    ) -> ScriptCall:
        """Return the command of a commit.

        Args:
            options: Option bits of ``record_codec``.
            records_removals: Whether webhooks want the removals.
            has_all_keys: Send the keys of the general path too. The script then never requests them, and no other
                commit overtakes this one.
            may_add: Use the script without allow-oom, because the commit must remember an unknown id.
            search: How to find the items of intervals, if not by the script unless they are too many.
        """
        options |= self._options
        if commit.trace and commit.external is None:
            options |= TRACED | GENERAL  # sampled messages are few: the fast path stays as short as it is
        if commit.is_for_known:
            options |= KNOWN | GENERAL
        if not (options or records_removals or has_all_keys) and _is_one_plain_creation(commit):
            return self._repeatable_grow, self._command_fast(uid, commit)
        keys = self._keys.of_user(uid).commit
        bits = options | (RECORD_REMOVALS if records_removals else 0)
        arguments = commit_arguments(commit, self._bounds, bits, search or self._search)
        # A script that may grow is refused at maxmemory, so commits that free memory run under allow-oom.
        # One that could be sent back, as it must remember an unknown id, would be overtaken by the next commit.
        may_add = may_add or (has_all_keys and bool(commit.ids))
        if _is_repeatable(commit):
            script = self._repeatable_grow if may_add or _adds(commit) else self._repeatable_shrink
        else:
            script = self._grow if may_add or _adds(commit) else self._shrink
        names = keys.general if has_all_keys else _names(keys, commit, options)
        return script, pack_script(script.sha, names, arguments)

    def of_many(self, commits: Sequence[tuple[str, Commit]], *, records_removals: bool) -> list[ScriptCall]:
        """Return the commands of commits that are sent together.

        Those of a user with several commits have all keys. One that the script sent back would be repeated after the
        others.
        """
        times, of = Counter([uid for uid, _ in commits]), self.of
        return [of(uid, each, records_removals=records_removals, has_all_keys=times[uid] > 1) for uid, each in commits]

    def _command_fast(self, uid: str, commit: Commit) -> bytes:
        """Return the same bytes as ``of`` for a commit that only creates one item without timers.

        Fast path: the general twin is ``of``. The benchmark `ingest` earns it: 0.4 µs instead of 0.9 for most messages.
        tests/unit/store/test_commit_command.py holds both equal. It can go when hiredis packs them within 0.6 µs.
        """
        creation = commit.creations[0]
        opening = self._timed_opening(uid) if _is_timed(creation) else self._opening(uid)
        first, item_id, record = pack_commit_fast(commit, self._bounds), creation.id.encode(), pack_item(creation)
        return b"".join(
            (opening, _size(first), first, _size(item_id), item_id, _size(record), record, b"\r\n"),
        )

    def _open(self, uid: str) -> bytes:
        return _opening(self._grow.sha, self._keys.creation(uid))

    def _open_timed(self, uid: str) -> bytes:
        return _opening(self._grow.sha, self._keys.timed_creation(uid))


def split_batches(commits: Sequence[tuple[str, Commit]]) -> Iterator[Sequence[tuple[str, Commit]]]:
    """Split many commits into batches that can be sent together, each user's commits in order.

    After a reset of all users, a commit is refused until the user is reset. A reset is such a commit itself, so it
    begins a new batch if the user has a commit in the current one. A commit with intervals may be sent back to search
    their items first, so the next commit of its user begins a new batch.
    """
    start, seen, last = 0, set[str](), set[str]()
    for place, (uid, commit) in enumerate(commits):
        if (commit.is_reset and uid in seen) or uid in last:
            yield commits[start:place]
            start, seen, last = place, set(), set()
        seen.add(uid)
        if commit.spans:
            last.add(uid)
    yield commits[start:]


def _is_one_plain_creation(commit: Commit) -> bool:
    """Return whether the commit only creates one item without timers: most messages."""
    return (
        len(commit.creations) == 1
        and not commit.creations[0].timers
        and not (commit.ids or commit.spans)
        and commit.message_id is None
        and not (commit.has_follow_up or commit.is_conditional or commit.records_removals)
        and commit.reason is RemovalReason.DISMISSED
    )


def _is_repeatable(commit: Commit) -> bool:
    """Return whether a second execution of the same command has no further effect (semantics.md L2, L3).

    An open interval without a message id does not: it would also dismiss an item that arrived after it.
    """
    if commit.message_id is not None and commit.message_id.is_remembered:
        return True
    if commit.is_conditional or commit.reason is not RemovalReason.DISMISSED:
        return False
    if commit.spans:
        return not any(span.is_open for span in commit.spans)
    return bool(commit.ids or commit.creations)


def _adds(commit: Commit) -> bool:
    """Return whether a commit stores something new: items, messages, message ids, skipped ids."""
    if commit.creations or commit.external:
        return True
    if commit.message_id is not None and commit.message_id.is_remembered:
        return True
    return any(span.skip for span in commit.spans)


def _is_timed(made: Creation) -> bool:
    return made.expires_us is not None or bool(made.remind_at_us or made.timers)


def _names(keys: CommitKeys, commit: Commit, options: int) -> tuple[str, ...]:
    """Return the keys of the fast path if the commit may take it. The script answers if it needs the others."""
    is_short = not (options or commit.spans or commit.message_id) and len(commit.creations) + len(commit.ids) == 1
    if not is_short:
        return keys.general
    if commit.ids:
        return keys.dismissal if commit.sender.category_filter is None else keys.general
    return keys.timed_creation if _is_timed(commit.creations[0]) else keys.creation


def _opening(sha: str, names: tuple[str, ...]) -> bytes:
    """Return the part of a bare commit's command that all commits of a user share: up to the end of the last key."""
    return pack_script(sha, names, ("", "", ""))[: -3 * _EMPTY - len(b"\r\n")]


def _size(argument: bytes) -> bytes:
    size = len(argument)
    return _SIZES[size] if size < len(_SIZES) else b"\r\n$%d\r\n" % size
