"""``?dry_run=true``: what a message would do is told, and not done."""

from __future__ import annotations

from typing import Any

from tests.support.api import NOW_S, Api, code_of

PATH = "/v1/users/alice/messages"
PUSHED = {"system": "gregor", "body": {"create": {"a": {"category": "news"}}}}


async def rehearse(api: Api, message: dict[str, Any]) -> dict[str, Any]:
    answer = await api.call("POST", PATH, params={"dry_run": "true"}, json=message)
    assert answer.status_code == 200, answer.text
    document: dict[str, Any] = answer.json()
    return document


async def test_a_rehearsal_tells_the_receipt_and_does_nothing(api: Api) -> None:
    told = await rehearse(api, PUSHED)

    assert (told["seq"], told["created"], told["dry_run"], told["deliveries"]) == (0, ["a"], True, [])
    assert (await api.call("GET", "/v1/users/alice/state")).json()["items"] == {}


async def test_a_rehearsal_tells_who_would_be_told_when_or_why_not(api: Api) -> None:
    types = {"news": {"title": "x", "push": {"after": "10s"}, "email": {"after": "15m"}}}
    await api.call("PUT", "/v1/categories", json={"categories": types})
    push = {"provider": "apns", "token": "t1", "topic": "com.example"}
    await api.call("PUT", "/v1/users/alice/devices/phone", json={"platform": "ios", "push": push})
    await api.call("PUT", "/v1/users/alice/devices/laptop", json={"platform": "desktop"})

    deliveries = (await rehearse(api, PUSHED))["deliveries"]

    member = {"item": "a", "intent": "item"}
    assert sorted(deliveries, key=str) == sorted(
        [
            {**member, "channel": "apns", "device": "phone", "at": NOW_S + 10, "reason": None},
            {**member, "channel": None, "device": "laptop", "at": None, "reason": "no_provider"},
            {**member, "channel": "email", "device": None, "at": NOW_S + 900, "reason": None},
        ],
        key=str,
    )


async def test_a_rehearsal_is_refused_as_the_message_would_be(api: Api) -> None:
    bad = {"system": "gregor", "body": {"create": {"a": {}}}}

    assert code_of(await api.call("POST", PATH, params={"dry_run": "true"}, json=bad)) == (422, "missing_field")
    assert code_of(await api.call("POST", PATH, params={"dry_run": "maybe"}, json=PUSHED)) == (422, "invalid")
