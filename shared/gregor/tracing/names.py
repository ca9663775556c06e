"""The names of all spans and attributes. The semantic conventions for messaging are not stable: they may change.

No attribute has a user, a device, an item id, a body or an address.
"""

from __future__ import annotations

from typing import Final

# Spans.
SEND_MESSAGE: Final = "gregor.send_message"
COMMIT: Final = "gregor.commit"
FANOUT: Final = "gregor.fanout"
DUE_WORK: Final = "gregor.due_work"
DELIVER: Final = "gregor.deliver"
CALL_PROVIDER: Final = "gregor.call_provider"

# Attributes.
EFFECT: Final = "gregor.effect"
"""Of a commit: ``effect`` or ``unchanged``."""
CONNECTIONS: Final = "gregor.connections"
"""Of a fan-out: the connections of the user in this gateway."""
WORK: Final = "gregor.due_work.kind"
INTENTS: Final = "gregor.intents"
CHANNEL: Final = "gregor.channel"
VERDICT: Final = "gregor.verdict"
PROVIDER_ID: Final = "gregor.provider_id"
"""The provider's own id of a notification, such as ``apns-id``."""
PROVIDER_STATUS: Final = "gregor.provider_status"
REQUEST_ID: Final = "gregor.request_id"
"""The ``X-Request-Id`` of the response, as in the log."""
TRANSPORT: Final = "gregor.transport"
"""How a message came in: ``http`` or ``device``."""
ERROR_TYPE: Final = "error.type"
