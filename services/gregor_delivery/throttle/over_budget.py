"""PURE. Users whose budget is used up: their further deliveries wait without an expensive decision."""

from __future__ import annotations

from typing import Final

from gregor.core.notify.ledger import DeliveryBudget

MAX_USERS: Final = 65_536
"""Remembered users. The oldest entry is dropped first; the next delivery of that user is decided again."""


class OverBudgetUsers:
    """The users of one channel and process whose budget is used up, and until when (µs). A hint: the store decides."""

    def __init__(self) -> None:
        self._found: dict[str, tuple[int, DeliveryBudget]] = {}

    def __len__(self) -> int:
        return len(self._found)

    def budget(self, uid: str, now_us: int) -> DeliveryBudget | None:
        """Return the budget that the user has used up; `None` if messages may be sent."""
        found = self._found.get(uid)
        if found is None:
            return None
        until_us, budget = found
        if until_us > now_us:
            return budget
        del self._found[uid]
        return None

    def add(self, uid: str, budget: DeliveryBudget, until_us: int) -> None:
        """Remember that the budget is used up until `until_us`. An earlier entry of the user stays."""
        if len(self._found) >= MAX_USERS:
            del self._found[next(iter(self._found))]
        self._found.setdefault(uid, (until_us, budget))

    def remove(self, uid: str) -> None:
        """Forget that the budget is used up: the store allows a message before the time that it named."""
        self._found.pop(uid, None)
