"""Executable specification: never runs in production. Suppressed e-mail addresses."""

from __future__ import annotations

from gregor.store.contract.suppressions import Suppression, hash_of


class MemorySuppressions:
    """``contract.Suppressions`` in memory."""

    def __init__(self) -> None:
        self._kept: dict[str, Suppression] = {}

    async def suppress(self, email: str, reason: str, now_us: int) -> Suppression:
        """See ``contract.Suppressions.suppress``."""
        made = self._kept[hash_of(email)] = Suppression(email, reason, now_us)
        return made

    async def suppression(self, email: str) -> Suppression | None:
        """See ``contract.Suppressions.suppression``."""
        return self._kept.get(hash_of(email))

    async def listed(self, before: tuple[int, str] | None, limit: int) -> list[Suppression]:
        """See ``contract.Suppressions.listed``."""
        found = [each for each in self._kept.values() if before is None or each.position < before]
        return sorted(found, key=lambda each: each.position, reverse=True)[:limit]

    async def release(self, email: str) -> bool:
        """See ``contract.Suppressions.release``."""
        return self._kept.pop(hash_of(email), None) is not None
