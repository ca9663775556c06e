"""The notification types of a deployment: a cache in every process, and the editor that changes them.

The cache keeps the last good set if a newer one cannot be parsed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, Protocol

import structlog

from gregor.core.categories.parse import parse_categories
from gregor.core.categories.policy import NO_POLICIES, CategoryPolicies
from gregor.core.errors import Problem
from gregor.core.json_text import canonical_json
from gregor.redis.pubsub.contract import PubSub
from gregor.rendering.renderer import Renderer
from gregor.store.contract.store import Categories, CategorySet, ChangeTracker, Contended

from .category_files import apply_initial_file, read_checked, read_file
from .versioned_cache import POLL_S, CacheUnavailable, VersionedCache

_log = structlog.get_logger(__name__)

_TRIES: Final = 8
_MAX_LOGGED: Final = 1_000


class _CategoryStore(Protocol):
    """The part of a store that the category registry uses."""

    @property
    def categories(self) -> Categories: ...
    @property
    def categories_channel(self) -> str: ...
    @property
    def tracker(self) -> ChangeTracker | None: ...

    async def ping(self) -> Mapping[str, float | None]: ...


class CategoryRegistry(VersionedCache):
    """The notification types as this process knows them: ``current``, and the ``renderer`` of their templates.

    ``count_failure`` is called with the field of each rendering that failed. The log gets only the first failure of
    each category and field.
    """

    def __init__(
        self,
        store: _CategoryStore,
        subscriptions: PubSub | None = None,
        *,
        poll_s: float = POLL_S,
        count_failure: Callable[[str], None] | None = None,
    ) -> None:
        super().__init__(store.categories_channel, store.ping, subscriptions, poll_s, store.tracker)
        self.version = 0
        self.current: CategoryPolicies = NO_POLICIES
        self.renderer = Renderer(NO_POLICIES)
        self._store = store
        self._count_failure = count_failure
        self._unreadable_version = 0
        self._last_loaded: CategorySet | None = None
        """The set that was loaded last, even if it cannot be parsed."""
        self._file: Path | None = None
        self._applied_us: int | None = None
        self._has_fallback = False
        self._logged: set[tuple[str, str]] = set()
        self._listeners: list[Callable[[], None]] = []

    async def open(self, initial_file: str | None = None, now_us: int = 0, *, applies_file: bool = True) -> None:
        """Load the current set, then keep it up to date. Raises ``Unavailable``, or ``Problem`` for a bad file.

        ``initial_file`` is the setting CATEGORIES. It is applied if no set was ever applied to this deployment, unless
        ``applies_file`` is false. Its entries are used while the stored set cannot be read.
        """
        self._file = None if initial_file is None else Path(initial_file)
        self._applied_us = now_us if applies_file else None
        await self.start()

    @property
    def is_known(self) -> bool:
        """Whether the stored set was read, or the file that replaces it meanwhile."""
        return self.is_read or self._has_fallback

    def check_known(self) -> None:
        """Raise ``CacheUnavailable`` unless the categories are known: the work would be lost without them."""
        if not self.is_known:
            raise CacheUnavailable("the categories were not read yet")

    def on_change(self, listener: Callable[[], None]) -> None:
        """Call ``listener`` after each change of ``current``."""
        self._listeners.append(listener)

    async def _load(self, *, is_forced: bool) -> None:
        """Load the current set. A set that cannot be parsed, from a newer release for instance, changes nothing."""
        if not self.is_read and self._file is not None and self._applied_us is not None:
            await self._apply_file(self._file, self._applied_us)
        version = await self._store.categories.version()
        if self._has_fallback and version == 0:
            self._has_fallback = False
            self._replace(0, NO_POLICIES)
        is_same_version = version in (self.version, self._unreadable_version)
        if is_same_version and not is_forced:
            return
        found = await self._store.categories.load(version)
        if found is None or (is_same_version and found == self._last_loaded):
            return
        self._last_loaded = found
        try:
            # In a thread: 2,000 patterns take up to a second to compile, and each holds the GIL for less than 1 ms.
            entries = await asyncio.to_thread(parse_categories, found.entries)
        except Problem as problem:
            self._unreadable_version = version
            _log.error("categories.unreadable", version=version, kept_version=self.version, reason=str(problem))
            return
        self._replace(version, entries)

    async def _apply_file(self, file: Path, now_us: int) -> None:
        """Apply the file of the setting. A file that is bad is an error at the start, and a log line later."""
        try:
            await apply_initial_file(self._store.categories, file, now_us)
        except Problem as problem:
            if not self._is_started:
                raise
            self._applied_us = None
            _log.error("categories.file_refused", file=str(file), reason=str(problem))

    def _start_without_data(self) -> None:
        """Use the entries of the file until the stored ones can be read."""
        if self._file is None:
            return
        try:
            document = read_file(self._file)
            entries = read_checked(document)
        except Problem as problem:
            _log.error("categories.file_refused", file=str(self._file), reason=str(problem))
            return
        self._has_fallback = True
        self._replace(0, entries)

    def _replace(self, version: int, entries: CategoryPolicies) -> None:
        self.version, self.current = version, entries
        self.renderer = Renderer(entries, self._report_failure)
        self._logged.clear()
        _log.info("categories.loaded", version=version, entries=len(entries.named))
        for listener in self._listeners:
            try:
                listener()
            except Exception:
                _log.exception("categories.listener_failed")

    def _report_failure(self, category: str, field: str, reason: str) -> None:
        if self._count_failure is not None:
            self._count_failure(field)
        # A type with many items would fill the log, hence one line for each category and field.
        if (category, field) not in self._logged and len(self._logged) < _MAX_LOGGED:
            self._logged.add((category, field))
            _log.error("template.failed", category=category, field=field, reason=reason)


class CategoryEditor:
    """Changes the notification types. Each change is checked and stored as a new version of the whole set.

    A call that changes nothing stores no version. The methods that change something return the current version.
    """

    def __init__(self, categories: Categories, check: Callable[[Mapping[str, Any]], Any]) -> None:
        self._categories = categories
        self._check = check

    async def current(self) -> CategorySet:
        """Return the current set; version 0 without entries if none was ever applied."""
        return await self._categories.load() or CategorySet(0, {}, 0)

    async def apply(self, entries: Mapping[str, Any], now_us: int) -> int:
        """Replace the whole set. Raises ``Problem`` ``schema``."""
        return await self._change(lambda _: entries, now_us)

    async def put(self, name: str, entry: Mapping[str, Any], now_us: int) -> int:
        """Add or replace one entry. Raises ``Problem`` ``schema`` if this or another entry is then invalid."""
        return await self._change(lambda current: {**current, name: entry}, now_us)

    async def delete(self, name: str, now_us: int) -> int:
        """Delete one entry, if there is one. Raises ``Problem`` ``schema`` if another entry needs it."""
        return await self._change(lambda current: {n: entry for n, entry in current.items() if n != name}, now_us)

    async def at_version(self, version: int) -> CategorySet:
        """Return the set of an older version. Raises ``Problem`` ``not_found``."""
        found = await self._categories.load(version)
        if found is None:
            raise Problem("not_found", f"Version {version} of the categories is no longer stored.")
        return found

    async def roll_back(self, version: int, now_us: int) -> int:
        """Apply the set of an older version as a new version. Raises ``Problem`` ``not_found`` or ``schema``."""
        return await self.apply((await self.at_version(version)).entries, now_us)

    async def _change(self, change: Callable[[Mapping[str, Any]], Mapping[str, Any]], now_us: int) -> int:
        for _ in range(_TRIES):
            current = await self.current()
            entries = change(current.entries)
            # Compared as canonical JSON, because in Python 1 == True.
            if canonical_json(entries) == canonical_json(current.entries):
                return current.version
            await asyncio.to_thread(self._check, entries)
            version = await self._categories.apply(entries, now_us, current.version)
            if version is not None:
                return version
        raise Contended(f"The categories were changed by other processes {_TRIES} times in a row; try again.")
