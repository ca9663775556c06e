"""Addresses that get no more mail, in memory."""

from __future__ import annotations

from gregor.core.mailbox import same_mailbox

from ..suppressions import Suppression


class MemorySuppressions:
    """``suppressions.Suppressions`` over a dictionary."""

    def __init__(self) -> None:
        self._kept: dict[str, Suppression] = {}

    async def suppress(self, email: str, reason: str, now_us: int) -> Suppression:
        """As ``Suppressions`` says."""
        made = self._kept[same_mailbox(email)] = Suppression(email, reason, now_us)
        return made

    async def suppression(self, email: str) -> Suppression | None:
        """As ``Suppressions`` says."""
        return self._kept.get(same_mailbox(email))

    async def listed(self, before: tuple[int, str] | None, limit: int) -> list[Suppression]:
        """As ``Suppressions`` says."""
        places = sorted(((each.since_us, name) for name, each in self._kept.items()), reverse=True)
        below = None if before is None else (before[0], same_mailbox(before[1]))
        return [self._kept[name] for at_us, name in places if below is None or (at_us, name) < below][:limit]

    async def release(self, email: str) -> bool:
        """As ``Suppressions`` says."""
        return self._kept.pop(same_mailbox(email), None) is not None
