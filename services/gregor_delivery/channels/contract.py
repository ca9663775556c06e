"""What a channel takes and promises. The worker knows channels by this contract alone; each provider is one module.

Rendering, state, ledger and retries are none of a channel's trade: it is handed a finished message, hands it over once,
and says what became of it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, TypeVar

from .verdict import Verdict

T_contra = TypeVar("T_contra", contravariant=True)


@dataclass(frozen=True, slots=True)
class PushMessage:
    """One push to one device, not yet shaped for its provider.

    `kind`: "alert" is shown, "background" only wakes the app. `title` and `text` are "" where there is nothing to show.
    `badge`: the absolute number, None to leave it alone. `collapse_id`: a hash of at most 64 bytes, base64url; the next
    push with the same one replaces this one. `expires_us`: wall clock after which the provider drops it, None for
    never. `urgent`: passes quiet hours, so the provider is asked not to wait either. `data`: the `gregor` object of
    docs/protocol.md, "What a push carries".
    """

    uid: str
    device: str
    token: Mapping[str, Any] | str = field(repr=False)
    """Of APNs and FCM a text; of Web Push `{"endpoint", "keys": {"p256dh", "auth"}}`."""
    topic: str | None
    """APNs: the bundle id; None takes the setting. Others have none."""
    sandbox: bool
    """APNs: the token is of the development environment."""
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
    """One mail to one address. `message_id` is stable over attempts, with its angle brackets; `text` is always there.

    `locale`: the language that it was asked for in, "" where nobody asked for one.
    `unsubscribe_url`: https, takes the one-click POST of RFC 8058. `in_reply_to`: a Message-ID with its brackets.
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
    """One call to one webhook, of JSON. `call_id` is stable over attempts; `secrets`: two while one is rotated."""

    webhook: str
    url: str = field(repr=False)
    secrets: tuple[str, ...] = field(repr=False)
    call_id: str
    body: bytes


OutgoingMessage = PushMessage | MailMessage | WebhookCall
"""Whatever a channel takes."""


class DeliveryChannel(Protocol[T_contra]):
    """One provider. Its parameter is what it takes: Push, Mail or Call.

    A channel is used by one event loop, by many sends at a time; how many is the worker's to bound.
    """

    @property
    def name(self) -> str:
        """`apns`, `fcm`, `webpush`, `email`, `console`: its name in stream, ledger and metrics."""

    async def open(self) -> None:
        """Read the credentials and make ready. Raises ValueError, saying which setting to mend; touches no network."""

    async def send(self, message: T_contra, deadline_s: float) -> Verdict:
        """Hand over one message once, and say what became of it within about `deadline_s` seconds.

        Never raises for anything the provider, the network or the message does. Never hands it over twice by itself,
        but where the first was surely not processed. Ends by itself: the worker does not cancel it; where that happens
        all the same (the process ends), other sends of the channel stay unharmed.
        """

    async def close(self) -> None:
        """Let the sends in flight end, then let go of the connections. No send begins after it."""

    async def check(self) -> str | None:
        """For `gregor doctor`: None where credentials and provider are good; else one sentence with the mend.

        Sends nothing to anybody.
        """
