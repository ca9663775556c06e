"""PURE. Taking pushes back: what a device is to take off its screen, when, and with what it is told so (L15).

All that waits for a device goes in one push that shows nothing, or with the next one that shows something. Systems
ration the former: iOS lets an app be woken two or three times an hour, browsers let nobody push without showing.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Final

from gregor.core.limits import DAY_US
from gregor.core.notify.intents import Intent
from gregor.core.notify.ledger import WAKING_US, PendingWithdrawals
from gregor_delivery.channels.contract import PushMessage

from .decision import SendDecision

USEFUL_US: Final = DAY_US
"""How long a withdrawal is worth sending: by then the app was opened, or the screen cleared."""
MOST_WAKINGS: Final = {"apns": 3, "webpush": 0}
"""Pushes an hour to one device that show nothing, of the channels that ration them."""
ALONE_BYTES: Final = 2_800
"""Ids that a push takes which shows nothing: whatever else is in it, it is below every provider's bound."""
BESIDE_BYTES: Final = 1_024
"""Ids and link of a push that shows something: they cost it no more than the end of a long text."""


def taken_back(silent: PushMessage, lead: Intent, known: PendingWithdrawals, now_us: int) -> SendDecision:
    """The look at a withdrawal; ``silent`` is the push that will name what is withdrawn."""
    until_us = lead.at_us + USEFUL_US
    if now_us >= until_us:
        return SendDecision(skip_reasons="budget")
    free_us = _free_us(lead.channel, known.woken_us, now_us)
    if free_us is None or free_us > now_us:
        # It goes with the next push that shows something; where none comes in time it ends quietly.
        return SendDecision(skip_reasons="budget", until_us=min(until_us, free_us or until_us))
    return SendDecision(
        compose=lambda others: naming(silent, [lead, *others]),
        also=_fitting((each for each in known.waiting if each.key != lead.key), ALONE_BYTES - _bytes(lead)),
        place=f"{silent.device}/withdraw",
        expires_us=until_us,
    )


def carried(known: PendingWithdrawals, link: str | None) -> tuple[Intent, ...]:
    """The withdrawals that a push takes along which shows something."""
    return _fitting(known.waiting, BESIDE_BYTES - len((link or "").encode()))


def naming(push: PushMessage, withdrawals: Sequence[Intent]) -> PushMessage:
    """The push, with the ids of what is withdrawn."""
    ids = list(dict.fromkeys(each.item for each in withdrawals))
    return replace(push, data={**push.data, "withdraw": ids}) if ids else push


def _free_us(channel: str, woken_us: Sequence[int], now_us: int) -> int | None:
    """From when on the device may be woken; ``None``: never."""
    most = MOST_WAKINGS.get(channel)
    if most is None:
        return now_us
    if most == 0:
        return None
    recent = sorted((at_us for at_us in woken_us if at_us > now_us - WAKING_US), reverse=True)
    return now_us if len(recent) < most else recent[most - 1] + WAKING_US


def _fitting(intents: Iterable[Intent], room: int) -> tuple[Intent, ...]:
    """The oldest of them, as many as there is room for: what is cut off a push would be told of as sent."""
    found = []
    for intent in intents:
        room -= _bytes(intent)
        if room < 0:
            break
        found.append(intent)
    return tuple(found)


def _bytes(intent: Intent) -> int:
    return len(intent.item) + 3
