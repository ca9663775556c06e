"""``?dry_run=true``: the result of a message without its effects."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.support.api import NOW_S, Api, code_of
from tests.support.python_calls import counted_calls

PATH = "/v1/users/alice/messages"
NEWS = {"title": "x", "push": {"after": "10s"}, "email": {"after": "15m"}}
APNS = {"provider": "apns", "token": "t1", "topic": "com.example"}
PHONE = {"platform": "ios", "push": APNS}
LATER_S = NOW_S + 86_400


def news(**times: Any) -> dict[str, Any]:
    return {"system": "gregor", "body": {"create": {"a": {"category": "news", "times": times}}}}


async def dry_run(api: Api, message: dict[str, Any]) -> dict[str, Any]:
    answer = await api.call("POST", PATH, params={"dry_run": "true"}, json=message)
    assert answer.status_code == 200, answer.text
    document: dict[str, Any] = answer.json()
    return document


async def predicted_deliveries(api: Api, message: dict[str, Any]) -> set[tuple[Any, ...]]:
    """Return the deliveries of a dry run as (intent, n, channel, device, seconds from now, reason)."""
    deliveries = (await dry_run(api, message))["deliveries"]
    assert all(each.pop("item") == "a" for each in deliveries)
    return {(*list(each.values())[:4], each["at"] and each["at"] - NOW_S, each["reason"]) for each in deliveries}


async def configure_news(api: Api, **more: Any) -> None:
    """Configure push and e-mail for the category news; alice gets a phone with push, and an address."""
    await api.call("PUT", "/v1/categories", json={"categories": {"news": {**NEWS, **more}}})
    await api.call("PUT", "/v1/users/alice/devices/phone", json=PHONE)
    await api.call("PUT", "/v1/users/alice/contact", json={"email": "alice@example.com"})


async def test_dry_run_returns_the_receipt_without_effect(api: Api) -> None:
    answer = await dry_run(api, news())

    assert (answer["seq"], answer["created"], answer["dry_run"], answer["deliveries"]) == (0, ["a"], True, [])
    assert (await api.call("GET", "/v1/users/alice/state")).json()["items"] == {}


@pytest.mark.parametrize("limits", [None, ["news"]])
async def test_dry_run_of_a_device_shows_only_pushes_to_itself(api: Api, limits: list[str] | None) -> None:
    """Other devices, and whether the user has an address, are for keys with the scope ``devices``."""
    await configure_news(api)
    await api.call("PUT", "/v1/users/alice/devices/secret-tablet", json={**PHONE, "push": {**APNS, "token": "t2"}})
    await api.call("POST", "/v1/contact/suppressions", json={"email": "alice@example.com"})

    for device, shown in (("phone", [("phone", None)]), ("unknown", [])):
        token = api.token(device=device, category_filter=limits)
        answer = (await api.call("POST", PATH, token, params={"dry_run": "true"}, json=news())).json()
        assert [(each["device"], each["reason"]) for each in answer["deliveries"]] == shown
        assert answer["warnings"] == ["deliveries has only the pushes to this device."]


async def test_dry_run_lists_deliveries_and_reasons(api: Api) -> None:
    await configure_news(api)
    await api.call("PUT", "/v1/users/alice/devices/laptop", json={"platform": "desktop"})

    (entry,) = [each for each in (await dry_run(api, news()))["deliveries"] if each["device"] == "phone"]

    assert entry == {
        "item": "a", "intent": "item", "n": 0, "channel": "apns", "device": "phone", "at": NOW_S + 10, "reason": None,
    }  # fmt: skip
    assert await predicted_deliveries(api, news()) == {
        ("item", 0, "apns", "phone", 10, None),
        ("item", 0, None, "laptop", None, "no_device"),
        ("item", 0, "email", None, 900, None),
    }


async def test_dry_run_lists_reminders(api: Api) -> None:
    await configure_news(api)

    assert await predicted_deliveries(
        api, news(created=NOW_S - 100, remind_at=["+10", "+50", "+400", "+900"], expires="+900")
    ) == {
        ("item", 0, "apns", "phone", 10, None),
        ("remind", 1, "apns", "phone", 0, None),
        ("remind", 1, "email", None, 0, None),
        ("remind", 2, "apns", "phone", 300, None),
        ("remind", 2, "email", None, 300, None),
    }


@pytest.mark.parametrize("urgent", [False, True])
async def test_dry_run_respects_quiet_hours(api: Api, urgent: bool) -> None:
    await configure_news(api, urgent=urgent)
    begin = (NOW_S // 60) % 1_440
    hours = {"from": clock(begin), "to": clock(begin + 10)}
    contact = {"email": "alice@example.com", "quiet_hours": hours}
    assert (await api.call("PUT", "/v1/users/alice/contact", json=contact)).status_code == 200
    end = (NOW_S // 60 + 10) * 60 - NOW_S

    pushed = ("item", 0, "apns", "phone", 10, None) if urgent else ("item", 0, "apns", "phone", end, "quiet_hours")
    assert await predicted_deliveries(api, news()) == {pushed, ("item", 0, "email", None, 900, None)}


async def test_dry_run_skips_items_that_expire_first(api: Api) -> None:
    await configure_news(api)
    begin = (NOW_S // 60) % 1_440
    contact = {"email": "alice@example.com", "quiet_hours": {"from": clock(begin), "to": clock(begin + 10)}}
    await api.call("PUT", "/v1/users/alice/contact", json=contact)
    end = (NOW_S // 60 + 10) * 60 - NOW_S

    assert await predicted_deliveries(api, news(created=NOW_S, remind_at=["+60"], expires=f"+{end}")) == {
        ("item", 0, "apns", "phone", None, "expired"),
        ("remind", 0, "apns", "phone", None, "expired"),
        ("remind", 0, "email", None, None, "expired"),
    }


def clock(minutes: int) -> str:
    return f"{minutes // 60 % 24:02}:{minutes % 60:02}"


async def test_dry_run_names_preference_and_no_address(api: Api) -> None:
    await configure_news(api)
    await api.call("PUT", "/v1/users/alice/preferences", json={"news": {"push": False}})
    await api.call("DELETE", "/v1/users/alice/contact")

    assert await predicted_deliveries(api, news()) == {
        ("item", 0, None, "phone", None, "preference"),
        ("item", 0, "email", None, None, "no_address"),
    }
    await configure_news(api)
    await api.call("PUT", "/v1/users/alice/preferences", json={"*": {"email": False}})
    assert ("item", 0, "email", None, None, "preference") in await predicted_deliveries(api, news())


async def test_dry_run_names_a_suppressed_address(api: Api) -> None:
    await configure_news(api)
    await api.store.suppressions.suppress("alice@example.com", "bounce", 0)

    assert ("item", 0, "email", None, None, "suppressed") in await predicted_deliveries(api, news())


async def test_dry_run_names_no_device(api: Api) -> None:
    await configure_news(api)
    await api.call("DELETE", "/v1/users/alice/devices/phone")

    assert ("item", 0, None, None, None, "no_device") in await predicted_deliveries(api, news())


async def test_dry_run_names_a_device_that_has_dismissed_the_item(api: Api) -> None:
    """The user has seen it: the real message sends no e-mail either."""
    await configure_news(api)
    laptop = {"platform": "desktop", "push": {**APNS, "token": "t2"}}
    await api.call("PUT", "/v1/users/alice/devices/laptop", json=laptop)
    dismissal = {"system": "gregor", "body": {"dismiss": {"ids": ["a"]}}}
    await api.call("POST", PATH, api.token(device="phone"), json=dismissal)
    message = news(remind_at=["+60"])
    message["body"]["create"]["a"]["for_device"] = "*"

    assert await predicted_deliveries(api, message) == {
        ("item", 0, None, "phone", None, "dismissed"),
        ("item", 0, "apns", "laptop", 10, None),
        ("item", 0, "email", None, None, "acked"),
        ("remind", 0, None, "phone", None, "dismissed"),
        ("remind", 0, "apns", "laptop", 60, None),
        ("remind", 0, "email", None, None, "acked"),
    }


async def test_dry_run_of_a_delayed_message(api: Api) -> None:
    await configure_news(api)
    message = {**news(remind_at=["+60"]), "id": "m", "not_before": LATER_S}

    assert await predicted_deliveries(api, message) == {
        ("item", 0, "apns", "phone", 86_410, None),
        ("item", 0, "email", None, 87_300, None),
        ("remind", 0, "apns", "phone", 86_460, None),
        ("remind", 0, "email", None, 86_460, None),
    }
    assert code_of(await api.call("DELETE", f"{PATH}/m"))[0] == 404


async def test_dry_run_validates_the_message(api: Api) -> None:
    bad = {"system": "gregor", "body": {"create": {"a": {}}}}

    assert code_of(await api.call("POST", PATH, params={"dry_run": "true"}, json=bad)) == (422, "missing_field")
    assert code_of(await api.call("POST", PATH, params={"dry_run": "maybe"}, json=news())) == (422, "invalid")


async def test_dry_run_suggests_a_similar_category(api: Api) -> None:
    await configure_news(api)

    async def warnings(category: str) -> list[str] | None:
        message = {"system": "gregor", "body": {"create": {"a": {"category": category}}}}
        return (await dry_run(api, message)).get("warnings")

    assert await warnings("newz") == ['No entry exists for the category "newz"; did you mean "news"?']
    assert await warnings("news") is None
    assert await warnings("news.sport") is None
    assert await warnings("invoice.due") is None


async def test_dry_run_suggests_no_category_outside_of_the_limits_of_the_caller(api: Api) -> None:
    entries = {name: {"title": "x"} for name in ("shop.secret", "shop2.news")}
    await api.call("PUT", "/v1/categories", json={"categories": entries})
    key = (await api.call("POST", "/v1/keys", json={"scopes": ["ingest"], "prefixes": ["shop2"]})).json()["key"]

    for caller in (api.token(category_filter=["shop2"]), key):
        for category, warnings in (("shop2.secret", 0), ("shop2.newz", 1)):
            message = {"system": "gregor", "body": {"create": {"a": {"category": category}}}}
            answer = await api.call("POST", PATH, caller, params={"dry_run": "true"}, json=message)
            assert len([each for each in answer.json().get("warnings", ()) if "did you mean" in each]) == warnings


async def test_dry_run_suggests_the_nearest_category(api: Api) -> None:
    names = [*(f"mail.service{n}.created" for n in range(30)), "invoice.due", "user.joined"]
    await api.call("PUT", "/v1/categories", json={"categories": dict.fromkeys(names, NEWS)})
    typos = ["invoce.deu", "usr.joinde", "mail.service17.craeted"]
    new = {f"i{n}": {"category": category} for n, category in enumerate([*typos, *typos, "qqq"])}

    warnings = (await dry_run(api, {"system": "gregor", "body": {"create": new}}))["warnings"]

    meant = ["invoice.due", "user.joined", "mail.service17.created"]
    assert warnings == [
        f'No entry exists for the category "{typo}"; did you mean "{name}"?'
        for typo, name in zip(typos, meant, strict=True)
    ]


async def test_search_for_similar_categories_is_bounded(api: Api) -> None:
    """100 unknown categories and 200 entries took 1.8 s, in one piece, and was charged as 10 messages."""
    names = [f"mail{n}-service-notification-created-today" for n in range(200)]
    await api.call("PUT", "/v1/categories", json={"categories": dict.fromkeys(names, NEWS)})

    async def calls(items: int) -> int:
        new = {f"i{n}": {"category": f"mali{n}-service-notification-craeted-today"} for n in range(items)}
        with counted_calls() as counted:
            await dry_run(api, {"system": "gregor", "body": {"create": new}})
        return counted.calls

    assert await calls(1) < 3_000
    assert await calls(99) < 20_000


async def test_quiet_hours_of_a_dry_run_are_computed_once(api: Api) -> None:
    """9 items for 64 devices took 44 ms."""
    await configure_news(api)
    await api.call("PUT", "/v1/users/alice/contact", json={"quiet_hours": {"from": "22:00", "to": "07:00"}})

    async def calls(devices: int) -> int:
        for n in range(devices):
            push = {"provider": "apns", "token": f"t{n}", "topic": "com.example"}
            await api.call("PUT", f"/v1/users/alice/devices/d{n}", json={"platform": "ios", "push": push})
        new = {f"i{n}": {"category": "news"} for n in range(9)}
        with counted_calls() as counted:
            answer = await dry_run(api, {"system": "gregor", "body": {"create": new}})
        assert len(answer["deliveries"]) >= 9 * devices
        return counted.calls

    few, many = await calls(1), await calls(60)

    assert many - few < 60 * 9 * 20


async def test_other_requests_run_between_the_items_of_a_dry_run(api: Api) -> None:
    """100 items with 16 reminders for 64 devices took half a second in one piece."""
    await configure_news(api)
    turns = 0

    async def count_turns() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    async def turns_during(items: int) -> int:
        before = turns
        message = {"system": "gregor", "body": {"create": {f"i{n}": {"category": "news"} for n in range(items)}}}
        assert len((await dry_run(api, message))["deliveries"]) >= items
        return turns - before

    counting = asyncio.create_task(count_turns())
    few, many = await turns_during(1), await turns_during(100)
    counting.cancel()

    assert many - few >= 90
