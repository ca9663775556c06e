"""The notification types that hold now, in every process: heard of within a second, the last good set kept."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, Protocol

import structlog

from gregor.core.categories.parse import parse_entries
from gregor.core.categories.policy import NO_ENTRIES, Entries
from gregor.core.errors import Problem
from gregor.core.json_text import canonical
from gregor.redis.pubsub.contract import Subscriptions
from gregor.rendering.renderer import Renderer
from gregor.store.contract.store import Categories, CategorySet, Contended

from .category_files import apply_first
from .versioned_cache import CHECK_S, VersionedCache

_log = structlog.get_logger(__name__)

_TRIES: Final = 8
_MOST_LOGGED: Final = 1_000


class _Store(Protocol):
    """What the registry needs of a store."""

    @property
    def categories(self) -> Categories: ...
    @property
    def categories_channel(self) -> str: ...


class CategoryRegistry(VersionedCache):
    """What a process holds of the categories: ``current``, and the ``renderer`` of their templates.

    ``feed``: where new versions are heard of; without one they are found by looking. ``failed`` is told the field of
    each rendering that failed, for the figures; the log has the first of each category and field.
    """

    def __init__(
        self,
        store: _Store,
        feed: Subscriptions | None = None,
        *,
        check_s: float = CHECK_S,
        failed: Callable[[str], None] | None = None,
    ) -> None:
        super().__init__(store.categories_channel, feed, check_s)
        self.version = 0
        self.current: Entries = NO_ENTRIES
        self.renderer = Renderer(NO_ENTRIES)
        self._store = store
        self._failed = failed
        self._refused = 0
        self._logged: set[tuple[str, str]] = set()
        self._listeners: list[Callable[[], None]] = []

    async def open(self, first: str | None = None, now_us: int = 0) -> None:
        """Load what holds, and keep up with it from now on. Raises ``Unavailable``.

        ``first``: the file of the setting CATEGORIES, applied where nothing ever was; ``Problem`` where it is bad.
        """
        if first is not None:
            await apply_first(self._store.categories, Path(first), now_us)
        await self.follow()

    def listen(self, listener: Callable[[], None]) -> None:
        """Call ``listener`` each time another set holds."""
        self._listeners.append(listener)

    async def _refresh(self) -> None:
        """Take over the set that holds; one that cannot be read changes nothing."""
        version = await self._store.categories.version()
        if version in (self.version, self._refused):
            return
        found = await self._store.categories.load(version)
        if found is None:
            return
        try:
            entries = parse_entries(found.entries)
        except Problem as problem:
            self._refused = version
            _log.error(
                "categories that cannot be read; the last good ones are kept", version=version, reason=str(problem)
            )
            return
        self._take(version, entries)

    def _take(self, version: int, entries: Entries) -> None:
        self.version, self.current = version, entries
        self.renderer = Renderer(entries, self._alarm)
        self._logged.clear()
        _log.info("categories taken over", version=version, entries=len(entries.named))
        for listener in self._listeners:
            try:
                listener()
            except Exception:
                _log.exception("a listener to categories failed")

    def _alarm(self, category: str, field: str, reason: str) -> None:
        """Count each failure; log the first of a category and field, or a busy type would fill the log."""
        if self._failed is not None:
            self._failed(field)
        if (category, field) not in self._logged and len(self._logged) < _MOST_LOGGED:
            self._logged.add((category, field))
            _log.error("a template failed; plain words went out", category=category, field=field, reason=reason)


class CategoryEditor:
    """Changes of the categories: each makes a new version of the whole set, checked before, never half done.

    A call that changes nothing makes no version. The answers are versions.
    """

    def __init__(self, categories: Categories, check: Callable[[Mapping[str, Any]], Any]) -> None:
        self._categories = categories
        self._check = check

    async def present(self) -> CategorySet:
        """The set that holds; version 0 with no entries where there is none."""
        return await self._categories.load() or CategorySet(0, {}, 0)

    async def apply(self, entries: Mapping[str, Any], now_us: int) -> int:
        """Put a whole set in the place of the one that holds. Raises ``Problem`` ``schema``."""
        return await self._change(lambda _: entries, now_us)

    async def put(self, name: str, entry: Mapping[str, Any], now_us: int) -> int:
        """Put one entry. Raises ``Problem`` ``schema``: of this entry, or of another that no longer fits."""
        return await self._change(lambda present: {**present, name: entry}, now_us)

    async def delete(self, name: str, now_us: int) -> int:
        """Take one entry away; not an error where there is none. Raises ``Problem`` ``schema``: others needed it."""
        return await self._change(lambda present: {n: entry for n, entry in present.items() if n != name}, now_us)

    async def kept(self, version: int) -> CategorySet:
        """The set of an older version. Raises ``Problem`` ``not_found``."""
        kept = await self._categories.load(version)
        if kept is None:
            raise Problem("not_found", f"Version {version} of the categories is not kept.")
        return kept

    async def roll_back(self, version: int, now_us: int) -> int:
        """Make the set of an older version hold again, as a new one. Raises ``Problem`` ``not_found``, ``schema``."""
        return await self.apply((await self.kept(version)).entries, now_us)

    async def _change(self, change: Callable[[Mapping[str, Any]], Mapping[str, Any]], now_us: int) -> int:
        for _ in range(_TRIES):
            present = await self.present()
            entries = change(present.entries)
            if canonical(entries) == canonical(present.entries):  # (not ==: to Python 1 is true)
                return present.version
            await asyncio.to_thread(self._check, entries)
            version = await self._categories.apply(entries, now_us, present.version)
            if version is not None:
                return version
        raise Contended("the categories are being changed by others again and again")
