"""The contract between the worker and the channels, and the messages that channels send.

A channel gets a finished message, sends it once and returns a verdict. Rendering, state, ledger and retries are the
worker's.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, TypeVar

from .verdict import Verdict

T_contra = TypeVar("T_contra", contravariant=True)


@dataclass(frozen=True, slots=True)
class PushMessage:
    """One push to one device, before it is encoded for its provider.

    `kind`: "alert" is shown, "background" only wakes the app. `title`, `text`: empty if there is nothing to show.
    `badge`: absolute number; None leaves it unchanged. `collapse_id`: a base64url hash of at most 64 bytes; the next
    push with the same one replaces this one. `expires_us`: wall clock after which the provider drops it; None: never.
    `urgent`: ignores quiet hours, and the provider is asked for immediate delivery. `data`: the `gregor` object of
    docs/explanation/delivery.md, "What a push carries".
    """

    uid: str
    device: str
    token: Mapping[str, Any] | str = field(repr=False)
    """APNs and FCM: a string. Web Push: `{"endpoint", "keys": {"p256dh", "auth"}}`."""
    topic: str | None
    """APNs only: the bundle id; None: the setting's."""
    sandbox: bool
    """APNs only: the token belongs to the development environment."""
    kind: Literal["alert", "background"]
    title: str
    text: str
    sound: str | None
    badge: int | None
    collapse_id: str
    expires_us: int | None
    urgent: bool
    data: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class MailMessage:
    """One mail to one address. `message_id`: the same for all attempts, with angle brackets.

    `locale`: language of the recipient; empty: unknown. `unsubscribe_url`: https, accepts the one-click POST of
    RFC 8058. `in_reply_to`: a Message-ID with angle brackets.
    """

    to: str = field(repr=False)
    locale: str
    subject: str
    text: str
    html: str | None
    message_id: str
    unsubscribe_url: str | None
    in_reply_to: str | None = None


@dataclass(frozen=True, slots=True)
class WebhookCall:
    """One JSON call to one webhook. `call_id`: the same for all attempts. `secrets`: two during a rotation."""

    webhook: str
    url: str = field(repr=False)
    secrets: tuple[str, ...] = field(repr=False)
    call_id: str
    body: bytes


OutgoingMessage = PushMessage | MailMessage | WebhookCall
"""A message of any channel."""


class DeliveryChannel(Protocol[T_contra]):
    """The channel to one provider; generic in its message type.

    Used by one event loop, with concurrent sends. The worker limits their number.
    """

    @property
    def name(self) -> str:
        """Name in queue, ledger and metrics: `apns`, `fcm`, `webpush`, `email`, `webhook` or `console`."""

    async def open(self) -> None:
        """Read the credentials, without network access. Raises ValueError that names the setting to correct."""

    async def send(self, message: T_contra, deadline_s: float) -> Verdict:
        """Send one message once, and return the verdict within about `deadline_s` seconds.

        Raises no exception for a failure of the provider, the network or the message. Sends a message again only if
        the provider has certainly not processed it. The worker does not cancel a send; if the process ends and it is
        cancelled, other sends of the channel are not affected.
        """

    async def close(self) -> None:
        """Wait for the sends in flight, then close the connections. No send may follow."""

    async def check(self) -> str | None:
        """Check credentials and provider for `gregor doctor`; returns None, or a sentence that says how to fix it.

        Sends no notification.
        """
