"""Faults planted in the code of the services: real processes run a changed copy, and the checker must name them."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from tests.support.cluster import ROOT


@dataclass(frozen=True)
class ProductMutant:
    """A fault: in the file ``path``, every ``old`` becomes ``new``. ``names``: the anomalies that may name it."""

    text: str
    path: str
    old: str
    new: str
    names: frozenset[str]

    def apply(self, directory: Path) -> Path:
        """Copy the code into a directory and plant the fault. Raises ``ValueError`` if the code has changed."""
        for part in ("shared", "services"):
            shutil.copytree(ROOT / part, directory / part, ignore=shutil.ignore_patterns("__pycache__"))
        file = directory / self.path
        code = file.read_text("utf-8")
        if self.old not in code:
            raise ValueError(f"{self.path} has no longer this text, so the fault cannot be planted: {self.old}")
        file.write_text(code.replace(self.old, self.new), "utf-8")
        return directory


_TRACKER = "services/gregor_gateway/fanout/sequence_tracker.py"
_ENCODE = "shared/gregor/core/messages/encode.py"
PRODUCT_MUTANTS = {
    "ignore-gaps": ProductMutant(
        "The gateway delivers announcements after a gap as if they were the next.",
        _TRACKER,
        "            return Continuity.LATE\n",
        "            return Continuity.LATE\n        return Continuity.NEXT\n",
        frozenset({"skip", "never-seen", "wrong-delta", "wrong-digest"}),
    ),
    "forget-message-ids": ProductMutant(
        "The store does not recognise a repeated message by its id.",
        "shared/gregor/store/lua/commit/commit.lua",
        "if message_id ~= '' then\n  local known",
        "if false then\n  local known",
        frozenset({"duplicate", "hole", "twice", "wrong-receipt"}),
    ),
    "delta-without-dismissals": ProductMutant(
        "A delta lacks the dismissed ids.",
        _ENCODE,
        "    if dismissed:\n",
        "    if False:\n",
        frozenset({"wrong-delta", "resurrected"}),
    ),
    "full-copy-without-an-item": ProductMutant(
        "A full copy lacks its last item.",
        _ENCODE,
        "else (answer.items, ())",
        "else (answer.items[:-1], ())",
        frozenset({"lost-write", "half", "wrong-delta", "wrong-digest"}),
    ),
    "receipt-without-a-dismissal": ProductMutant(
        "A receipt lacks an id that the message dismissed.",
        _ENCODE,
        "_listed(receipt.dismissed)",
        "_listed(receipt.dismissed[1:])",
        frozenset({"wrong-receipt", "half"}),
    ),
    "timers-early": ProductMutant(
        "The scheduler does due work five seconds before its time.",
        "services/gregor_scheduler/due_loop.py",
        "self._clock.now_us()",
        "(self._clock.now_us() + 5_000_000)",
        frozenset({"early"}),
    ),
}
"""Faults by name. One short run behind a broken network finds each."""
