"""The decision just before sending: send now, postpone, skip, or already covered (semantics.md L15)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Protocol

from gregor.core.notify.intents import Intent
from gregor.core.notify.ledger import DeliveryBudget, DeliveryRecord
from gregor_delivery.channels.contract import OutgoingMessage
from gregor_delivery.channels.verdict import RecipientGone, Refused, Retry
from gregor_delivery.throttle.breaker import Permit


@dataclass(frozen=True, slots=True)
class SendNow:
    """Send the message that `compose` builds.

    `companions` are other deliveries of the same channel that the same message can cover. `compose` receives those
    companions that could be claimed together with the intent.
    """

    compose: Callable[[Sequence[Intent]], OutgoingMessage]
    companions: tuple[Intent, ...] = ()
    message_name: Callable[[Sequence[Intent]], str] | None = None
    """Name of the message that covers these companions too. It is written to each record before the message is sent."""
    lock: str = ""
    """Lock held during the send (device and collapse id): no second message goes to the same place meanwhile."""
    expires_us: int | None = None
    """Wall clock after which the message is useless; `None`: never."""
    on_gone: Callable[[RecipientGone], Awaitable[bool | Retry]] | None = None
    """Deletes a token or address that the provider reports as dead. Returns whether there was one to delete.

    If another address has replaced it, returns a `Retry`, which becomes the verdict: the message is sent again. If it
    raises `Unavailable`, the message is sent again, too."""
    permit: Permit | None = None
    """Permit of the endpoint's circuit breaker, in addition to the permit of the channel's."""
    is_separate: bool = False
    """Whether only the breaker of the endpoint gets the verdict: the device chose it, and it can fail alone."""
    is_own_receiver: bool = False
    """Whether the device chose the endpoint: then failures of the endpoint say nothing about the service."""
    budget: DeliveryBudget | None = None
    """Budget of the user from which the message is taken; `None`: unlimited."""
    may_fold: Callable[[Sequence[Intent]], Awaitable[Collection[Intent]]] | None = None
    """Returns those of the deliveries above the budget that the message may cover now; `compose` gets them too."""
    is_separable: Callable[[Refused], bool] | None = None
    """Returns whether this refusal may be about one of the deliveries: they are then all retried, in smaller messages.
    """
    is_long: Callable[[Sequence[Intent]], bool] | None = None
    """Returns whether the message with these companions takes long to build: `compose` then runs in a thread."""


@dataclass(frozen=True, slots=True)
class Skip:
    """Send nothing. `skip_reason`: see delivery.md, "Skip reasons".

    `is_dead_letter`: an operator should investigate.
    """

    skip_reason: str
    is_dead_letter: bool = False


@dataclass(frozen=True, slots=True)
class Postpone:
    """Send nothing before `until_us`, then decide again."""

    skip_reason: str
    until_us: int


@dataclass(frozen=True, slots=True)
class AlreadySent:
    """An earlier message covered this intent: record it as sent."""


SendDecision = SendNow | Skip | Postpone | AlreadySent


@dataclass(frozen=True, slots=True)
class ClaimFirst:
    """The first part of a decision: the message may be sent. Claim the delivery with this lock and budget first.

    The rest of the decision is expensive. If many deliveries of a user are due together, most claims fail.
    """

    lock: str
    budget: DeliveryBudget | None
    decide_claimed: Callable[[DeliveryRecord], Awaitable[SendDecision]]
    """Returns the rest of the decision, with the same lock and budget. Raises `Unavailable`."""


class Decider(Protocol):
    """Decides for one kind of channel, from the current state."""

    async def decide(self, intent: Intent, now_us: int) -> SendDecision | ClaimFirst:
        """Return whether and what to send for `intent`. Raises `Unavailable`."""
        ...
