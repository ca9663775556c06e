"""The state at the moment of a send (semantics.md L15): what a look at it tells whoever brings an intent forward."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from gregor.core.notify.intents import Intent
from gregor_delivery.channels.contract import OutgoingMessage
from gregor_delivery.channels.verdict import RecipientGone
from gregor_delivery.throttle.breaker import Permit


@dataclass(frozen=True, slots=True)
class SendDecision:
    """What was seen. ``why_not``: the word of protocol.md where nothing goes out now; else ``compose`` makes what does.

    ``also``: other deliveries of this channel that the same message can tell, so that one message does for several;
    ``compose`` is given those of them that could be claimed with it.
    """

    compose: Callable[[Sequence[Intent]], OutgoingMessage] | None = None
    also: tuple[Intent, ...] = ()
    name: Callable[[Sequence[Intent]], str] | None = None
    """What the message is called that tells these as well: written in the ledger of each before it goes out."""
    skip_reasons: str | None = None
    until_us: int | None = None
    """Where it only waits: until when."""
    is_dead: bool = False
    """Nothing will go out, and somebody should look at it: a dead letter."""
    is_told: bool = False
    """It was told already, by a message that told others too: ``sent``, and nothing goes out."""
    place: str = ""
    """What is held while it is sent, so that nothing else goes there meanwhile: device and collapse id."""
    expires_us: int | None = None
    """When telling it is of no use any more; ``None``: never."""
    forget: Callable[[RecipientGone], Awaitable[bool]] | None = None
    """What is done where the provider says that token or address is dead; whether there was something to forget."""
    turn: Permit | None = None
    """Of a breaker beside that of the channel: is told what became of it, or that nothing went out."""


class Decider(Protocol):
    """Decides, for one kind of channel, from the state of now."""

    async def look(self, intent: Intent, now_us: int) -> SendDecision:
        """What goes out for an intent, or why nothing does. Raises ``Unavailable``."""
        ...
