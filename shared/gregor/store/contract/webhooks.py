"""The part of the store contract about webhooks. Values: `core.notify.webhook_events`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from gregor.core.errors import Problem
from gregor.core.notify.webhook_events import Webhook

MAX_WEBHOOKS: Final = 100
"""The most webhooks of a deployment: every event is matched against each of them."""


@dataclass(slots=True)
class RecordedEvents:
    """The kinds of events that commits of this process record in users' agendas, for the scheduler to send to webhooks.

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
    """The webhooks of a deployment. Their secrets are stored in plain text, because calls are signed with them."""

    async def version(self) -> int:
        """Return a number that changes with every change; 0 if there never was a webhook."""
        ...

    async def all(self) -> tuple[int, Sequence[Webhook]]:
        """Return the version, and all webhooks by id."""
        ...

    async def put(self, webhook: Webhook, expected: int) -> bool:
        """Create or replace a webhook, and publish the change to all processes.

        Returns false and changes nothing if ``expected`` is not the current version (another process was faster).
        Raises ``too_many`` if there are too many already.
        """
        ...

    async def delete(self, webhook_id: str) -> bool:
        """Delete a webhook, and publish the change to all processes. Returns whether it existed."""
        ...


def too_many() -> Problem:
    """Return the problem that the deployment has the most webhooks allowed."""
    return Problem("too_many", f"A deployment may have at most {MAX_WEBHOOKS} webhooks; delete one first.")
