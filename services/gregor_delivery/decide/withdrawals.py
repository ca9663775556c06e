"""PURE. Withdrawals: removing notifications that are already on a screen (semantics.md L15).

Everything that waits to be withdrawn from a device travels in one silent push, or with the next visible push. Platforms
ration silent pushes: iOS allows two or three an hour to one app, and browsers allow none.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import replace
from typing import Final

from gregor.core.limits import DAY_US
from gregor.core.notify.intents import Intent, IntentKind
from gregor.core.notify.ledger import WAKING_US, PendingWithdrawals
from gregor_delivery.channels.contract import PushMessage
from gregor_delivery.channels.verdict import RecipientGone

from .decision import Postpone, SendDecision, SendNow, Skip

LIFETIME_US: Final = DAY_US
"""How long a withdrawal is worth sending: after a day the app was opened or the screen cleared."""
SILENT_PUSHES_PER_HOUR: Final = {"apns": 3, "webpush": 0}
"""Limit of silent pushes to one device; channels that are not listed have none."""
SILENT_PUSH_ID_BYTES: Final = 2_800
"""Item ids in a silent push: together with the rest of the payload they stay below every provider's limit."""
VISIBLE_PUSH_ID_BYTES: Final = 1_024
"""Item ids and link in a visible push: at most the end of a long text is cut for them."""


def decide_withdrawal(
    silent: PushMessage,
    lead: Intent,
    known: PendingWithdrawals,
    now_us: int,
    on_gone: Callable[[RecipientGone], Awaitable[bool]] | None = None,
) -> SendDecision:
    """Decide whether the withdrawal `lead` is sent now. `silent` is the silent push that would carry its item id."""
    until_us = lead.at_us + LIFETIME_US
    if now_us >= until_us:
        return Skip("budget")
    allowed_us = _silent_push_allowed_at(lead.channel, known.woken_us, now_us)
    if allowed_us is None or allowed_us > now_us:
        # The next visible push carries it; without one it ends unsent.
        return Postpone("budget", min(until_us, allowed_us or until_us))
    companions = (each for each in known.waiting if each.key != lead.key)
    return SendNow(
        compose=lambda others: with_withdrawals(silent, [lead, *others]),
        companions=_take_while_fits(companions, SILENT_PUSH_ID_BYTES - _id_bytes(lead)),
        lock=f"{silent.device}/withdraw",
        expires_us=until_us,
        on_gone=on_gone,
    )


def carried_by_visible_push(known: PendingWithdrawals, link: str | None) -> tuple[Intent, ...]:
    """Return the withdrawals that a visible push with this link can carry."""
    return _take_while_fits(known.waiting, VISIBLE_PUSH_ID_BYTES - len((link or "").encode()))


def with_withdrawals(push: PushMessage, withdrawals: Sequence[Intent]) -> PushMessage:
    """Return the push with the item ids of `withdrawals` in its `withdraw` list."""
    ids = list(dict.fromkeys(each.item for each in withdrawals if each.kind is IntentKind.WITHDRAW))
    return replace(push, data={**push.data, "withdraw": ids}) if ids else push


def _silent_push_allowed_at(channel: str, woken_us: Sequence[int], now_us: int) -> int | None:
    """Return when the next silent push may go to the device; `None`: never."""
    limit = SILENT_PUSHES_PER_HOUR.get(channel)
    if limit is None:
        return now_us
    if limit == 0:
        return None
    recent = sorted((at_us for at_us in woken_us if at_us > now_us - WAKING_US), reverse=True)
    return now_us if len(recent) < limit else recent[limit - 1] + WAKING_US


def _take_while_fits(intents: Iterable[Intent], room: int) -> tuple[Intent, ...]:
    """Return the oldest intents whose ids fit: an id that is cut off later would be recorded as sent."""
    found = []
    for intent in intents:
        room -= _id_bytes(intent)
        if room < 0:
            break
        found.append(intent)
    return tuple(found)


def _id_bytes(intent: Intent) -> int:
    return len(intent.item) + 3
