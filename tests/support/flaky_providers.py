"""Fakes of all providers with a changeable failure mode; each records every request.

The fakes of `gregor.dev.fakes` validate a request first; then the mode decides.
"""

from __future__ import annotations

import json
import re
import time
from dataclasses import dataclass
from email import message_from_bytes
from email.policy import default
from typing import Any, Final

from gregor.dev.fakes.apns import ANY_TOKEN, FakeApns, FakeApnsConnection, ReceivedApnsPush
from gregor.dev.fakes.apns_actions import ApnsAction
from gregor.dev.fakes.fcm import FakeFcm, error, quota_exceeded, unavailable, unregistered
from gregor.dev.fakes.http1 import FakeRequest, FakeResponse, ServerFault
from gregor.dev.fakes.smtp import FakeSmtp, ReceivedMail, RelayFault, RelayRule
from gregor.dev.fakes.tls import CertificateAuthority
from gregor.dev.fakes.webpush import FakeWebPush
from tests.support.failure_modes import FailureMode

LATE_S: Final = 0.3
SOON: Final = "1"
"""Value of Retry-After, in seconds."""


@dataclass(frozen=True, slots=True)
class ProviderRecord:
    """One request. `name`: collapse id or Message-ID. `at`: wall clock, seconds.

    `fate`: `arrived` (and confirmed), `unanswered` (arrived without a response), `lost` (neither), `gone`, `refused` or
    `deferred`. A record with the fate `cut` marks that the channel's connections were dropped with their responses.
    """

    at: float
    channel: str
    uid: str
    items: tuple[str, ...]
    name: str
    fate: str
    withdraw: tuple[str, ...] = ()


_APNS: Final = {
    "take": ApnsAction(),
    "ask": ApnsAction(429, "TooManyRequests", retry_after=SOON),
    "busy": ApnsAction(503, "ServiceUnavailable"),
    "hang": ApnsAction(is_silent=True),
    "drop": ApnsAction(drops=True),
    "reset": ApnsAction(reset=2),
    "refuse stream": ApnsAction(reset=7),
    "go": ApnsAction(goaway="taken"),
    "go without": ApnsAction(goaway="refused"),
    "late": ApnsAction(delay_s=LATE_S),
    "gone": ApnsAction(410, "Unregistered", timestamp_ms=4_000_000_000_000),
    "refuse": ApnsAction(400, "BadDeviceToken"),
}


class FlakyApns(FakeApns):
    """`seen`: all requests."""

    def __init__(self, authority: CertificateAuthority, mode: FailureMode, **more: Any) -> None:
        super().__init__(authority, most_streams=1_000, **more)
        self.mode = mode
        self.seen: list[ProviderRecord] = []

    def decide(self, headers: dict[str, str], body: bytes, connection: FakeApnsConnection) -> ApnsAction:
        """Apply Apple's rules, then the mode."""
        self.script(ANY_TOKEN, _APNS[self.mode.act()])
        action = super().decide(headers, body, connection)
        self._scripts[ANY_TOKEN].clear()
        if action.drops:
            self.seen.append(cut("apns"))
        received: ReceivedApnsPush = self.received.pop()
        if received.payload is not None:
            self.seen.append(_push("apns", received.payload["gregor"], received.collapse_id, _fate_of(action)))
        return action


def cut(channel: str) -> ProviderRecord:
    """Return the mark that connections were dropped."""
    return ProviderRecord(time.time(), channel, "", (), "", "cut")


def _fate_of(action: ApnsAction) -> str:
    if not action.is_delivered:
        return {410: "gone", 400: "refused"}.get(action.status, "deferred")
    return "unanswered" if action.is_silent or action.drops or action.reset is not None else "arrived"


def _push(channel: str, data: dict[str, Any], name: str | None, fate: str) -> ProviderRecord:
    items = (data["id"],) if data["id"] is not None else ()
    return ProviderRecord(time.time(), channel, data["uid"], items, name or "", fate, tuple(data["withdraw"]))


_INVALID: Final = error(400, "INVALID_ARGUMENT", "INVALID_ARGUMENT")
_FCM: Final[dict[str, tuple[FakeResponse | ServerFault | None, str]]] = {
    "take": (None, "arrived"),
    "ask": (quota_exceeded(SOON), "deferred"),
    "busy": (unavailable(), "deferred"),
    "hang": (ServerFault.HANG, "lost"),
    "take and hang": (ServerFault.HANG, "unanswered"),
    "drop": (ServerFault.DROP, "lost"),
    "take and drop": (ServerFault.DROP, "unanswered"),
    "half": (ServerFault.HALF, "unanswered"),
    "late": (FakeResponse(200, b'{"name":"projects/p/messages/late"}', delay_s=LATE_S), "arrived"),
    "gone": (unregistered(), "gone"),
    "refuse": (_INVALID, "refused"),
}


class FlakyFcm(FakeFcm):
    """`seen`: all requests."""

    def __init__(self, mode: FailureMode) -> None:
        super().__init__(script=self._apply_mode, keeps=False)
        self.mode = mode
        self.seen: list[ProviderRecord] = []

    def _apply_mode(self, message: dict[str, Any]) -> FakeResponse | ServerFault | None:
        answer, fate = _FCM[self.mode.act()]
        tag = message.get("android", {}).get("notification", {}).get("tag")
        self.seen.append(_push("fcm", json.loads(message["data"]["gregor"]), tag, fate))
        return answer


_WEBPUSH: Final[dict[str, tuple[FakeResponse | ServerFault, str]]] = {
    "take": (FakeResponse(201), "arrived"),
    "ask": (FakeResponse(429, headers={"retry-after": SOON}), "deferred"),
    "busy": (FakeResponse(503), "deferred"),
    "hang": (ServerFault.HANG, "unanswered"),
    "drop": (ServerFault.DROP, "unanswered"),
    "half": (ServerFault.HALF, "arrived"),
    "late": (FakeResponse(201, delay_s=LATE_S), "arrived"),
    "gone": (FakeResponse(410), "gone"),
    "refuse": (FakeResponse(400), "refused"),
}


class FlakyWebPush(FakeWebPush):
    """`seen`: all requests. A rejected message is not decrypted: its record has the browser instead of the items."""

    def __init__(self, authority: CertificateAuthority, mode: FailureMode) -> None:
        super().__init__(authority)
        self.mode = mode
        self.seen: list[ProviderRecord] = []

    def _handle(self, request: FakeRequest) -> FakeResponse | ServerFault:
        browser = request.target.removeprefix("/push/")
        scripted, fate = _WEBPUSH[self.mode.act()]
        self._scripts[browser].clear()
        self.script(browser, scripted)
        answer = self._respond(request)
        if self.received:
            received = self.received.pop()
            self.seen.append(_push("webpush", received.message["gregor"], received.topic, fate))
        else:
            topic = request.headers.get("topic", "")
            fate = fate if answer is scripted else f"misjudged: {answer}"
            self.seen.append(ProviderRecord(time.time(), "webpush", browser, (), topic, fate))
        return answer


_SMTP: Final[dict[str, tuple[tuple[str, ...], str | RelayFault | None]]] = {
    "take": ((), None),
    "ask": (("MAIL",), "451 4.3.0 Later"),
    "busy": (("CONNECT", "MAIL"), "421 4.3.2 Too many"),
    "hang": (("RCPT",), RelayFault.HANG),
    "drop": (("DATA",), RelayFault.DROP),
    "take and hang": (("END",), RelayFault.HANG),
    "take and drop": (("END",), RelayFault.DROP),
    "gone": (("RCPT",), "550 5.1.1 No such user"),
    "refuse": (("RCPT",), "550 5.7.1 Not wanted"),
}
_TOLD: Final = re.compile(r"told ([\w-]+)\.")
_FINAL: Final = {"550 5.1.1 No such user": "gone", "550 5.7.1 Not wanted": "refused"}


class FlakySmtp(FakeSmtp):
    """`seen`: all requests up to the last `collect`, which sets their times: call it often."""

    def __init__(self, mode: FailureMode) -> None:
        super().__init__()
        self.mode = mode
        self.seen: list[ProviderRecord] = []

    def collect(self) -> None:
        """Record the mails since the last call."""
        for kept, fate in ((self.mails, "arrived"), (self.unanswered, "unanswered")):
            while kept:
                self.seen.append(_mail(kept.pop(0), fate))

    def match_rule(self, step: str, arguments: str = "") -> RelayRule | None:
        """Choose an action at every step; an action that belongs to another step has no effect."""
        steps, reply = _SMTP[self.mode.act()]
        if step not in steps or reply is None:
            return None
        if isinstance(reply, str) and reply in _FINAL:
            uid = arguments.partition("<")[2].partition("@")[0]
            self.seen.append(ProviderRecord(time.time(), "email", uid, (), "", _FINAL[reply]))
        return RelayRule(step, reply)


def _mail(received: ReceivedMail, fate: str) -> ProviderRecord:
    """Record a mail with its recipient and the items that its text names: `told <item>.`"""
    document = message_from_bytes(received.content, policy=default)
    part = document.get_body(("plain",))
    words = f"{document['subject']} {part.get_content() if part is not None else ''}"
    items = tuple(dict.fromkeys(_TOLD.findall(words)))
    uid = received.recipients[0].partition("@")[0]
    return ProviderRecord(time.time(), "email", uid, items, document["message-id"], fate)
