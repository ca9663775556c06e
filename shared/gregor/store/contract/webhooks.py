"""What the store of webhooks promises; a part of ``contract.Store``. The values are in ``core.events``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from gregor.core.errors import Problem
from gregor.core.notify.webhook_events import Webhook

MOST_WEBHOOKS: Final = 100
"""Of a deployment: each event costs a look at each of them."""


@dataclass(slots=True)
class RecordedEvents:
    """Which events the commits of this process record in users' agendas, for the scheduler to send to webhooks.

    The webhook registry sets these flags by the webhooks that exist; the parts of the store read them. An event that no
    webhook wants would only cost memory.

    Attributes:
        removals: Items that leave a user's state (``WorkKind.LEFT``) or that a device hides (``WorkKind.HIDDEN``).
            Removals of items with timers are always recorded, because their notifications must be withdrawn.
        acknowledgements: Acknowledgements of views (``WorkKind.ACKED``).
        deliveries: Deliveries that were sent or failed for good (``WorkKind.SETTLED``).
    """

    removals: bool = False
    acknowledgements: bool = False
    deliveries: bool = False


class Webhooks(Protocol):
    """The webhooks of a deployment. Secrets are kept as they are: calls are signed with them."""

    async def version(self) -> int:
        """A number that is another after each change; 0 where there never was a webhook."""
        ...

    async def all(self) -> tuple[int, Sequence[Webhook]]:
        """The version, and all webhooks in the order of their ids."""
        ...

    async def put(self, webhook: Webhook, expected: int) -> bool:
        """Keep it, in the place of the one of its id where there is one, and tell all processes.

        False, and nothing done, where ``expected`` is not the version that holds: somebody else was faster.
        ``too_many`` where there are too many already.
        """
        ...

    async def delete(self, webhook_id: str) -> bool:
        """Whether there was one. All processes are told."""
        ...


def too_many() -> Problem:
    """The deployment has the most webhooks allowed."""
    return Problem("too_many", f"At most {MOST_WEBHOOKS} webhooks may be kept; delete some first.")
