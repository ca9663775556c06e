"""What would be sent, as one line of the log: the default of development, and where a provider is not set up."""

from __future__ import annotations

from typing import Final

import structlog

from .contract import MailMessage, OutgoingMessage, PushMessage, WebhookCall
from .verdict import Sent, Verdict

log = structlog.get_logger(__name__)

LONGEST_TEXT: Final = 200


class ConsoleChannel:
    """Takes whatever any channel takes, says it, and calls it sent. Neither tokens nor addresses are said."""

    def __init__(self, name: str = "console") -> None:
        """`name`: the channel that it stands in for."""
        self._name = name
        self._count = 0

    @property
    def name(self) -> str:
        """The channel that it stands in for, or `console`."""
        return self._name

    async def open(self) -> None:
        """Nothing to open."""

    async def send(self, message: OutgoingMessage, deadline_s: float) -> Verdict:
        """Say it; always `Sent`."""
        self._count += 1
        log.info("Would be sent.", channel=self._name, **said_of(message))
        return Sent("console", f"console-{self._count}")

    async def close(self) -> None:
        """Nothing to close."""

    async def check(self) -> str | None:
        """Always good."""
        return None


def said_of(message: OutgoingMessage) -> dict[str, object]:
    """The fields of the line: what somebody would see, and where it would be seen."""
    match message:
        case PushMessage():
            shown = {"title": message.title, "text": _short(message.text)} if message.kind == "alert" else {}
            withdrawn = {"withdraw": message.data["withdraw"]} if message.data.get("withdraw") else {}
            where = {"user": message.uid, "device": message.device, "kind": message.kind, "badge": message.badge}
            return {**where, **shown, **withdrawn, "id": message.data.get("id"), "collapse_id": message.collapse_id}
        case MailMessage():
            return {"subject": _short(message.subject), "text": _short(message.text), "message_id": message.message_id}
        case WebhookCall():
            return {
                "webhook": message.webhook,
                "id": message.call_id,
                "body": _short(message.body.decode("utf-8", "replace")),
            }


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= LONGEST_TEXT else line[: LONGEST_TEXT - 1] + "…"
