"""The authenticated caller of a request, and what it may do."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from gregor.auth.device_tokens import Caller
from gregor.core.errors import Problem
from gregor.core.ids import BACKEND, Prefixes
from gregor.core.items.sync import View
from gregor.core.messages.model import Sender
from gregor.store import service_keys
from gregor.store.contract.access import ServiceKey


@dataclass(frozen=True, slots=True)
class Actor:
    """An authenticated caller: a service key, or a device with its token. Exactly one of the two is set.

    ``secret_mark``: identifies the secret of the key that was used (``service_keys.mark_of``).
    """

    key: ServiceKey | None = None
    caller: Caller | None = None
    secret_mark: str | None = None

    @property
    def category_filter(self) -> Prefixes:
        """The category prefixes that the caller is limited to; ``None``: unlimited."""
        if self.key is not None:
            return self.key.prefixes
        return self.caller.category_filter if self.caller is not None else ()

    @property
    def systems(self) -> Prefixes:
        """The external systems that the caller is limited to, for reading and for sending; ``None``: unlimited."""
        if self.key is not None:
            return self.key.allowed_systems
        return self.caller.systems if self.caller is not None else ()

    @property
    def key_id(self) -> str | None:
        """The id of the service key, if the caller is one."""
        return None if self.key is None else self.key.id

    @property
    def issued_us(self) -> int:
        """When the device token was issued; 0 for a key, and for a token that does not say it."""
        return 0 if self.caller is None else self.caller.iat_us

    def sender_and_view(self, device: str | None) -> tuple[Sender, View]:
        """Return the sender of a message that names ``device``, and its view.

        Raises ``forbidden`` if a device token names another device.
        """
        if self.caller is None:
            return _sender_and_view(device or BACKEND, self.category_filter, self.systems)
        if device is not None and device != self.caller.device:
            raise Problem("forbidden", "The device token belongs to another device.")
        return _sender_and_view(self.caller.device, self.category_filter, self.systems, max(1, self.caller.iat_us))

    def has_scope(self, scope: str) -> bool:
        """Return whether the key has a scope. A device token has only ``ingest``."""
        return scope in service_keys.effective_scopes(self.key) if self.key is not None else scope == "ingest"

    @property
    def may_see_deliveries(self) -> bool:
        """Whether a dry run shows deliveries: to a key with ``devices``; to a device, those to itself."""
        return self.key is None or self.has_scope("devices")

    def require_scope(self, scope: str) -> None:
        """Raise ``forbidden`` unless the caller has the scope."""
        if not self.has_scope(scope):
            raise Problem("forbidden", f"This needs a service key with the scope {scope}.")


# Saves two allocations a message: most messages come from a few callers.
@lru_cache(1_024)
def _sender_and_view(
    device: str, category_filter: Prefixes, systems: Prefixes, issued_us: int = 0
) -> tuple[Sender, View]:
    return Sender(device, category_filter, systems, issued_us), View(device, category_filter)
