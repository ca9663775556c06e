"""From a message to a mail, with real processes and a fake relay: absent users get one mail, present users none."""

from __future__ import annotations

import base64
import hmac
import json
import time
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from email import message_from_bytes
from email.message import EmailMessage
from email.policy import default
from typing import Any

import httpx
import pytest

from gregor.dev.fakes.http1 import FakeRequest, FakeResponse, Http1Server
from gregor.dev.fakes.smtp import FakeSmtp, RelayRule
from tests.support.cluster import Cluster
from tests.support.ports import free_port
from tests.support.wait import wait_until
from tests.support.wire_device import WireDevice

LONG_S = 40
AFTER_S = 3
CATEGORIES = "".join(
    f'["{name}"]\ntitle = "about {{{{ id }}}}"\nemail = {{ after = "{AFTER_S}s", unless = "{unless}" }}\n{more}'
    for name, unless, more in (
        ("foreground", "foreground", ""),
        ("online", "online", ""),
        ("acked", "acked", ""),
        ("alarm", "foreground", "urgent = true\n"),
    )
)
PUBLIC = "https://gregor.example"


@pytest.fixture(scope="module")
def port() -> int:
    """Return the port of the relay; it listens while a test runs."""
    return free_port()


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory, port: int) -> Iterator[Cluster]:
    """Run a cluster whose clock shows 20 seconds past a minute, because quiet hours end with a minute."""
    directory = tmp_path_factory.mktemp("mail")
    entries = directory / "categories.toml"
    entries.write_text(CATEGORIES)
    with Cluster(
        directory / "c", ingests=1, gateways=1, schedulers=2, deliveries=2, categories=str(entries),
        smtp_url=f"smtp://127.0.0.1:{port}?tls=none", mail_from="Gregor <gregor@example.com>", public_url=PUBLIC,
        clock_offset=round(20 - time.time() % 60), log_level="debug",
        webhook_loopback="true", delivery_deadline="2",
    ) as cluster:  # fmt: skip
        yield cluster


@pytest.fixture
async def relay(port: int) -> AsyncIterator[FakeSmtp]:
    """Run the fake relay."""
    found = FakeSmtp()
    await found.start(port)
    yield found
    await found.close()


@pytest.fixture
async def api(cluster: Cluster) -> AsyncIterator[httpx.AsyncClient]:
    """Return a client of the backend API."""
    async with cluster.api() as client:
        yield client


def creating(item_id: str, category: str = "foreground") -> dict[str, Any]:
    return {"system": "gregor", "body": {"create": {item_id: {"category": category, "body": {}}}}}


def dismissing(item_id: str) -> dict[str, Any]:
    return {"system": "gregor", "body": {"dismiss": {"ids": [item_id]}}}


async def known(api: httpx.AsyncClient, user: str, **contact: Any) -> None:
    """Set the address of a user."""
    answer = await api.put(f"/v1/users/{user}/contact", json={"email": f"{user}@example.com", **contact})
    assert answer.status_code == 200, answer.text


def mails(relay: FakeSmtp, user: str) -> list[EmailMessage]:
    """Return the mails of a user, in order."""
    contents = (mail.content for mail in relay.mails if mail.recipients == (f"{user}@example.com",))
    return [message_from_bytes(content, policy=default) for content in contents]


def subjects(relay: FakeSmtp, user: str) -> list[str]:
    return [mail["subject"] for mail in mails(relay, user)]


async def mail_of(api: httpx.AsyncClient, user: str, item_id: str) -> tuple[str, str | None] | None:
    """Return state and reason of an item's mail; None before the scheduler has decided."""
    entries = (await api.get(f"/v1/users/{user}/deliveries", params={"item": item_id})).json()["entries"]
    return next(((each["state"], each["reason"]) for each in entries if each["channel"] == "email"), None)


async def settled(api: httpx.AsyncClient, user: str, item_id: str) -> tuple[str, str | None]:
    """Return the final state and reason of an item's mail."""

    async def end() -> tuple[str, str | None] | None:
        found = await mail_of(api, user, item_id)
        return found if found and found[0] in ("sent", "cancelled", "dead") else None

    became: tuple[str, str | None] = await wait_until(end, f"the mail of {item_id} has an outcome", LONG_S)
    return became


async def time_is_over(api: httpx.AsyncClient, relay: FakeSmtp, user: str) -> None:
    """Wait until every mail that was due before now was decided: a later mail of another user has arrived."""
    await known(api, user)
    await api.post(f"/v1/users/{user}/messages", json=creating("later"))
    await wait_until(lambda: subjects(relay, user), "the other user's mail", LONG_S)


async def test_quiet_hours_delay_all_but_urgent_mails(
    cluster: Cluster, api: httpx.AsyncClient, relay: FakeSmtp
) -> None:
    end_s = (cluster.now_s() + AFTER_S + 16) // 60 * 60 + 60
    clock = datetime.fromtimestamp(end_s, UTC).strftime
    quiet = {"from": clock("%H:") + f"{(int(clock('%M')) + 30) % 60:02}", "to": clock("%H:%M")}
    await known(api, "sleeper", timezone="UTC", quiet_hours=quiet)
    await api.post("/v1/users/sleeper/messages", json=creating("a"))
    await api.post("/v1/users/sleeper/messages", json=creating("fire", "alarm"))

    await wait_until(lambda: subjects(relay, "sleeper"), "the urgent one", LONG_S)
    assert subjects(relay, "sleeper") == ["about fire"]

    async def waits() -> bool:
        return await mail_of(api, "sleeper", "a") == ("waiting", "quiet_hours")

    await wait_until(waits, "the other one waits", LONG_S)
    assert cluster.now_s() < end_s, "the quiet hours were over before they were looked at"
    await wait_until(lambda: len(subjects(relay, "sleeper")) == 2, "their end", 100)
    assert cluster.now_s() >= end_s
    assert subjects(relay, "sleeper") == ["about fire", "about a"]


async def test_absent_user_gets_one_mail_for_all(cluster: Cluster, api: httpx.AsyncClient, relay: FakeSmtp) -> None:
    await known(api, "away")
    for item_id in ("a", "b"):
        await api.post("/v1/users/away/messages", json=creating(item_id))
    await wait_until(lambda: mails(relay, "away"), "the mail", LONG_S)
    await time_is_over(api, relay, "after-away")

    [mail] = mails(relay, "away")
    assert mail["subject"] == "about b (+1)"
    assert [await settled(api, "away", item_id) for item_id in ("a", "b")] == [("sent", None)] * 2


@pytest.mark.parametrize(
    ("unless", "was_there", "became"),
    [
        ("foreground", "foreground", ("cancelled", "present")),
        ("foreground", "online", ("sent", None)),
        ("foreground", "acked", ("cancelled", "acked")),
        ("online", "online", ("cancelled", "present")),
        ("acked", "foreground", ("sent", None)),
        ("acked", "acked", ("cancelled", "acked")),
    ],
)
async def test_presence_cancels_the_mail_by_category(
    cluster: Cluster,
    api: httpx.AsyncClient,
    relay: FakeSmtp,
    unless: str,
    was_there: str,
    became: tuple[str, str | None],
) -> None:
    user = f"{unless}-{was_there}"
    await known(api, user)
    hello = {"foreground": was_there == "foreground"}
    async with WireDevice(cluster.gateway_urls[0], cluster.token(user, "desk"), hello) as desk:
        await desk.synced()
        await api.post(f"/v1/users/{user}/messages", json=creating("a", unless))
        frame = await desk.until(lambda frame: "create" in frame.get("body", {}), "the item")
        if was_there == "acked":
            await desk.send({"ack": frame["seq"]})

    assert await settled(api, user, "a") == became
    assert len(mails(relay, user)) == (became[0] == "sent")


async def test_item_dismissed_just_before_is_not_mailed(
    cluster: Cluster, api: httpx.AsyncClient, relay: FakeSmtp
) -> None:
    for n in range(5):
        user = f"quick-{n}"
        await known(api, user)
        due_s = cluster.now_s() + AFTER_S
        await api.post(f"/v1/users/{user}/messages", json=creating("a"))
        await wait_until(lambda due_s=due_s: cluster.now_s() >= due_s - 1, "a second before its mail")
        await api.post(f"/v1/users/{user}/messages", json=dismissing("a"))
        if cluster.now_s() < due_s:
            break
    else:
        pytest.fail("this machine is too slow to dismiss anything within a second")
    await time_is_over(api, relay, "after-quick")

    assert mails(relay, user) == []


async def test_one_click_unsubscribe_needs_a_post(cluster: Cluster, api: httpx.AsyncClient, relay: FakeSmtp) -> None:
    await known(api, "tired")
    await api.post("/v1/users/tired/messages", json=creating("a"))
    await wait_until(lambda: mails(relay, "tired"), "the mail", LONG_S)
    [mail] = mails(relay, "tired")
    assert mail["List-Unsubscribe-Post"] == "List-Unsubscribe=One-Click"
    link = mail["List-Unsubscribe"].strip("<>").replace(PUBLIC, cluster.ingest_urls[0])

    async with httpx.AsyncClient(trust_env=False) as anybody:
        assert (await anybody.get(link)).status_code == 200
        assert (await api.get("/v1/users/tired/preferences")).json() == {}
        assert (await anybody.post(link, data={"List-Unsubscribe": "One-Click"})).status_code == 200
        forged = link[:-1] + ("A" if link[-1] != "A" else "B")
        assert (await anybody.post(forged)).status_code == 404

    await api.post("/v1/users/tired/messages", json=creating("b"))
    assert await settled(api, "tired", "b") == ("cancelled", "preference")
    assert len(mails(relay, "tired")) == 1


async def test_dead_address_is_suppressed_until_released(
    cluster: Cluster, api: httpx.AsyncClient, relay: FakeSmtp
) -> None:
    relay.rules = [RelayRule("RCPT", "550 5.1.1 <moved@example.com>: no such user", None, "moved")]
    await known(api, "moved")
    became = []
    for item_id in ("a", "b"):
        await api.post("/v1/users/moved/messages", json=creating(item_id))
        became.append(await settled(api, "moved", item_id))
    listed = (await api.get("/v1/contact/suppressions")).json()["entries"]
    asked = relay.commands["RCPT"]

    relay.rules = []
    address = {"email": "moved@example.com"}
    assert (await api.request("DELETE", "/v1/contact/suppressions", json=address)).status_code == 204
    await api.post("/v1/users/moved/messages", json=creating("c"))
    became.append(await settled(api, "moved", "c"))

    assert became == [("dead", "suppressed"), ("cancelled", "suppressed"), ("sent", None)]
    assert [(each["email"], each["reason"]) for each in listed] == [("moved@example.com", "bounce")]
    assert asked == 1
    logs = cluster.logs()
    assert "no such user" in logs, "the log tells what the relay said"
    assert "moved@" not in logs
    assert subjects(relay, "moved") == ["about c"]


async def test_mail_scanned_for_long_arrives_once(cluster: Cluster, api: httpx.AsyncClient, relay: FakeSmtp) -> None:
    """The relay replies long after the deadline of a push (RFC 5321 gives it 10 minutes)."""
    relay.rules = [RelayRule("END", delay_s=6.0, match="scanned")]
    await known(api, "scanned")

    await api.post("/v1/users/scanned/messages", json=creating("a"))

    assert await settled(api, "scanned", "a") == ("sent", None)
    assert (len(mails(relay, "scanned")), relay.unanswered) == (1, [])


def is_signed(secret: str, call: FakeRequest) -> bool:
    """Check a Standard Webhooks signature: HMAC-SHA256 of id, time and body with the decoded secret."""
    id_, sent_at, given = (call.headers[f"webhook-{name}"] for name in ("id", "timestamp", "signature"))
    key = base64.b64decode(secret.removeprefix("whsec_"))
    wanted = hmac.digest(key, b".".join((id_.encode(), sent_at.encode(), call.body)), "sha256")
    return f"v1,{base64.b64encode(wanted).decode()}" in given.split(" ") and abs(time.time() - int(sent_at)) < 300


async def test_webhook_reports_the_outcome_of_mails(api: httpx.AsyncClient, relay: FakeSmtp) -> None:
    relay.rules = [RelayRule("RCPT", "554 5.7.1 refused", 1, "told")]
    await known(api, "told")
    calls: list[FakeRequest] = []

    def take(call: FakeRequest) -> FakeResponse:
        calls.append(call)
        return FakeResponse(204)

    backend = Http1Server(take)
    await backend.start()
    wish = {"url": f"{backend.url}/hook", "events": ["delivery.sent", "delivery.dead"], "category_prefix": "acked"}
    made = (await api.post("/v1/webhooks", json=wish)).json()
    for item_id, category in (("a", "acked"), ("b", "acked"), ("c", "online")):
        await api.post("/v1/users/told/messages", json=creating(item_id, category))
        await settled(api, "told", item_id)
    await wait_until(lambda: len(calls) == 2, "both outcomes are told", LONG_S)
    await api.delete(f"/v1/webhooks/{made['id']}")
    await api.post("/v1/users/told/messages", json=creating("d", "acked"))
    await settled(api, "told", "d")
    await time_is_over(api, relay, "after-told")
    await backend.close()

    assert all(is_signed(made["secret"], call) for call in calls)
    events = [json.loads(call.body) for call in calls]
    told = [(each["type"], *(each["data"][name] for name in ("id", "channel", "device", "status"))) for each in events]
    assert told == [("delivery.dead", "a", "email", None, "554"), ("delivery.sent", "b", "email", None, "250")]
