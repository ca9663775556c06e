"""Executable specification: never runs in production. The versions of the categories."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

from gregor.store.contract.store import KEPT_VERSIONS, CategorySet

from .data import MemoryData


class MemoryCategories:
    """``contract.Categories`` in memory."""

    def __init__(self, data: MemoryData) -> None:
        self._data = data
        self._version = 0
        self._sets: dict[int, CategorySet] = {}

    async def version(self) -> int:
        """See ``contract.Categories.version``."""
        return self._version

    async def load(self, version: int | None = None) -> CategorySet | None:
        """See ``contract.Categories.load``."""
        found = self._sets.get(self._version if version is None else version)
        return deepcopy(found)

    async def apply(self, entries: Mapping[str, Any], now_us: int, expected: int | None = None) -> int | None:
        """See ``contract.Categories.apply``."""
        if expected is not None and expected != self._version:
            return None
        self._version += 1
        self._sets[self._version] = CategorySet(self._version, deepcopy(dict(entries)), now_us)
        self._sets.pop(self._version - KEPT_VERSIONS, None)
        self._data.announce_categories(self._version)
        return self._version
