"""Random messages: creations, dismissals by id and by interval, external and delayed messages."""

from __future__ import annotations

import itertools
import random
import time
from collections import deque
from collections.abc import Sequence
from typing import Any

CATEGORIES = ("mail", "mail.spam", "user.joined", "invoice")
Document = dict[str, Any]


class RandomMessages:
    """Makes messages for users. Dismissals name items that earlier messages created."""

    def __init__(self, uids: Sequence[str], dice: random.Random) -> None:
        self._dice = dice
        self._numbers = itertools.count()
        self._items: dict[str, deque[str]] = {uid: deque(maxlen=15) for uid in uids}

    def of(self, uid: str, device: str | None = None) -> Document:
        """Return a message for a user; ``device`` sends it."""
        dice, kind, number = self._dice, self._dice.random(), next(self._numbers)
        known = self._items[uid]
        if kind < 0.5 or not known:
            return {"system": "gregor", "body": {"create": self._created(uid, number, device)}}
        if kind < 0.8:
            ids = dice.sample(list(known), min(len(known), dice.choice((1, 1, 2))))
            return {"system": "gregor", "body": {"dismiss": {"ids": ids}}}
        if kind < 0.86:
            intervals = [{"category": dice.choice(CATEGORIES)}]
            body: Document = {"dismiss": {"intervals": intervals}}
            if dice.random() < 0.5:
                body["create"] = self._created(uid, number, device)
            return {"system": "gregor", "id": f"m{number}", "body": body}
        if kind < 0.97:
            return {"system": "kbfs.favorites", "id": f"m{number}", "body": {"n": number}}
        items = self._created(uid, number, device)
        return {"system": "gregor", "not_before": round(time.time() + 3, 3), "body": {"create": items}}

    def _created(self, uid: str, number: int, device: str | None) -> Document:
        dice = self._dice
        made: Document = {}
        for part in range(dice.choice((1, 1, 1, 2))):
            item: Document = {"category": dice.choice(CATEGORIES), "body": {"n": number}}
            times: Document = {}
            if dice.random() < 0.15:
                times["expires"] = f"+{dice.randrange(4, 30)}s"
            if dice.random() < 0.1:
                times["remind_at"] = [f"+{dice.randrange(2, 12)}s"]
            if times:
                item["times"] = times
            if dice.random() < 0.2:
                item["for_device"] = dice.choice(("*", device or "d0"))
            made[f"i{number}-{part}"] = item
        self._items[uid].extend(made)
        return made
