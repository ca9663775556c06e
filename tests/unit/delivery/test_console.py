"""The console channel: one log line for each message, without tokens and addresses."""

from __future__ import annotations

from structlog.testing import capture_logs

from gregor_delivery.channels.console import ConsoleChannel
from gregor_delivery.channels.contract import MailMessage, PushMessage, WebhookCall
from gregor_delivery.channels.verdict import Sent

PUSH = PushMessage(
    uid="alice",
    device="phone",
    token="the-token",
    topic=None,
    sandbox=False,
    kind="alert",
    title="Bob joined",
    text="You shared\nfiles. " + "x" * 300,
    sound=None,
    badge=3,
    collapse_id="c0ffee",
    expires_us=None,
    urgent=False,
    data={"id": "aa", "withdraw": ["bb"]},
)
MAIL = MailMessage("alice@example.com", "en", "Hello", "Text", None, "<m@x>", "https://x/unsubscribe/secret")
CALL = WebhookCall("audit", "https://a.example/hook/secret", ("whsec_secret",), "evt-1", b'{"type":"x"}')


async def test_console_logs_one_line() -> None:
    channel = ConsoleChannel("apns")
    await channel.open()
    with capture_logs() as lines:
        verdicts = [await channel.send(message, 1.0) for message in (PUSH, MAIL, CALL)]
    await channel.close()

    assert verdicts == [Sent("console", f"console-{n}") for n in (1, 2, 3)]
    assert [line["channel"] for line in lines] == ["apns"] * 3
    assert lines[0]["title"] == "Bob joined"
    assert str(lines[0]["text"]).startswith("You shared files. xxx")
    assert len(str(lines[0]["text"])) == 200
    assert (lines[0]["badge"], lines[0]["withdraw"], lines[0]["id"]) == (3, ["bb"], "aa")
    assert (lines[1]["subject"], lines[2]["body"]) == ("Hello", '{"type":"x"}')
    assert await channel.check() is None


async def test_console_hides_tokens_and_addresses() -> None:
    with capture_logs() as lines:
        for message in (PUSH, MAIL, CALL):
            await ConsoleChannel().send(message, 1.0)

    said = repr(lines) + repr((PUSH, MAIL, CALL))
    assert "the-token" not in said
    assert "alice@example.com" not in said
    assert "secret" not in repr(lines)
    assert "whsec" not in said
