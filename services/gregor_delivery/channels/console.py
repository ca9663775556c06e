"""Console channel: logs messages instead of sending them, for development and providers without credentials."""

from __future__ import annotations

from typing import Final

import structlog

from .contract import MailMessage, OutgoingMessage, PushMessage, WebhookCall
from .verdict import Sent, Verdict

log = structlog.get_logger(__name__)

MAX_TEXT: Final = 200


class ConsoleChannel:
    """Accepts the messages of every channel and logs them, without tokens and addresses."""

    def __init__(self, name: str = "console") -> None:
        """`name`: the channel that it replaces."""
        self._name = name
        self._count = 0

    @property
    def name(self) -> str:
        """Name of the channel that it replaces, or `console`."""
        return self._name

    async def open(self) -> None:
        """Do nothing."""

    async def send(self, message: OutgoingMessage, deadline_s: float) -> Verdict:
        """Log the message; always returns `Sent`."""
        self._count += 1
        log.info("delivery.would_send", channel=self._name, **loggable(message))
        return Sent("console", f"console-{self._count}")

    async def close(self) -> None:
        """Do nothing."""

    async def check(self) -> str | None:
        """Return None: nothing can be wrong."""
        return None


def loggable(message: OutgoingMessage) -> dict[str, object]:
    """Return the log fields of a message: its content and recipient, without secrets."""
    match message:
        case PushMessage():
            shown = {"title": message.title, "text": _shorten(message.text)} if message.kind == "alert" else {}
            withdrawn = {"withdraw": message.data["withdraw"]} if message.data.get("withdraw") else {}
            recipient = {"user": message.uid, "device": message.device, "kind": message.kind, "badge": message.badge}
            return {**recipient, **shown, **withdrawn, "id": message.data.get("id"), "collapse_id": message.collapse_id}
        case MailMessage():
            return {
                "subject": _shorten(message.subject),
                "text": _shorten(message.text),
                "message_id": message.message_id,
            }
        case WebhookCall():
            return {
                "webhook": message.webhook,
                "id": message.call_id,
                "body": _shorten(message.body.decode("utf-8", "replace")),
            }


def _shorten(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= MAX_TEXT else line[: MAX_TEXT - 1] + "…"
