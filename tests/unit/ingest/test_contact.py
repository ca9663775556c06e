"""Contact, preferences and quiet hours of users over HTTP."""

from typing import Any

import pytest

from gregor.core.notify.contact import quiet_until
from gregor.core.notify.intents import Intent, IntentKind
from gregor.core.notify.ledger import Claim, DeliveryState
from tests.support.api import NOW_S, Api, code_of
from tests.support.builders import SECOND_US
from tests.support.python_calls import counted_calls

CONTACT = "/v1/users/alice/contact"
PREFERENCES = "/v1/users/alice/preferences"
QUIET_HOURS = "/v1/users/alice/quiet-hours"
SENT = {"email": "alice@example.com", "timezone": "Europe/Rome", "quiet_hours": {"from": "22:00", "to": "07:00"}}


async def test_contact_is_put_patched_read_and_deleted(api: Api) -> None:
    assert (await api.call("GET", CONTACT)).json() == {}
    assert (await api.call("PUT", CONTACT, json=SENT)).json() == SENT

    patched = await api.call("PATCH", CONTACT, json={"quiet_hours": {"to": "08:00"}, "timezone": None, "locale": "it"})
    now = {"email": "alice@example.com", "locale": "it", "quiet_hours": {"from": "22:00", "to": "08:00"}}
    assert patched.json() == now
    assert (await api.call("GET", CONTACT)).json() == now

    for _ in range(2):
        assert (await api.call("DELETE", CONTACT)).status_code == 204
    assert (await api.call("GET", CONTACT)).json() == {}


async def test_device_may_change_preferences(api: Api) -> None:
    token = api.token()
    assert (await api.call("GET", PREFERENCES, token)).json() == {}
    said = {"user": {"push": True}, "*": {"push": False, "email": False}}
    assert (await api.call("PUT", PREFERENCES, token, json=said)).json() == said

    patched = await api.call("PATCH", PREFERENCES, token, json={"user": None, "*": {"email": None}})
    assert patched.json() == {"*": {"push": False}}
    assert (await api.call("GET", PREFERENCES, token)).json() == {"*": {"push": False}}


async def test_device_may_change_quiet_hours(api: Api) -> None:
    token = api.token()
    await api.call("PUT", CONTACT, json={"email": "alice@example.com", "timezone": "Asia/Tokyo"})
    assert (await api.call("GET", QUIET_HOURS, token)).json() == {"timezone": "Asia/Tokyo"}

    wanted = {"timezone": "Europe/Rome", "quiet_hours": {"from": "22:00", "to": "07:00"}}
    assert (await api.call("PUT", QUIET_HOURS, token, json=wanted)).json() == wanted
    assert (await api.call("GET", CONTACT)).json() == {"email": "alice@example.com", **wanted}

    assert (
        await api.call("PUT", QUIET_HOURS, token, json={"timezone": "Europe/Rome", "quiet_hours": None})
    ).json() == {"timezone": "Europe/Rome"}
    assert (await api.call("GET", CONTACT)).json() == {"email": "alice@example.com", "timezone": "Europe/Rome"}


async def test_invalid_quiet_hours_change_nothing(api: Api) -> None:
    await api.call("PUT", CONTACT, json=SENT)

    for wrong, pointer in (
        ({"email": "mallory@example.com"}, "/email"),
        ({"timezone": "Mars/Olympus"}, "/timezone"),
        ({"quiet_hours": {"from": "22:00", "to": "22:00"}}, "/quiet_hours/to"),
    ):
        answer = await api.call("PUT", QUIET_HOURS, api.token(), json=wrong)
        assert (answer.status_code, answer.json()["errors"][0]["pointer"]) == (422, pointer)
    assert (await api.call("GET", CONTACT)).json() == SENT


async def test_limited_token_cannot_change_quiet_hours(api: Api) -> None:
    token = api.token(category_filter=["user"])

    answer = await api.call("PUT", QUIET_HOURS, token, json={"timezone": "Europe/Rome"})

    assert code_of(answer) == (403, "category_not_allowed")
    assert (await api.call("GET", QUIET_HOURS, token)).json() == {}


async def test_preferences_patch_may_spell_a_trailing_dot(api: Api) -> None:
    await api.call("PUT", PREFERENCES, json={"user": {"push": True}, "invoice": {"push": False}})

    patched = await api.call("PATCH", PREFERENCES, json={"user.": {"email": False}, "invoice.": None})
    assert patched.json() == {"user": {"push": True, "email": False}}

    wrong = await api.call("PATCH", PREFERENCES, json={"user.": {"push": 1}})
    assert [fault["pointer"] for fault in wrong.json()["errors"]] == ["/user./push"]
    both = await api.call("PATCH", PREFERENCES, json={"user.": {"push": True}, "user": {"push": False}})
    assert code_of(both) == (422, "contradictory")


@pytest.mark.parametrize("patch", [{}, {"c7": {"push": False}}])
async def test_patch_parses_only_what_it_names(api: Api, patch: dict[str, Any]) -> None:
    """Patches of 1,000 preferences took 29 ms each, and count as one small request."""

    async def calls(count: int) -> int:
        await api.call("PUT", PREFERENCES, json={f"c{n}": {"push": True} for n in range(count)})
        with counted_calls() as counted:
            assert (await api.call("PATCH", PREFERENCES, json=patch)).status_code == 200
        return counted.calls

    await calls(10)
    assert await calls(1_000) - await calls(10) < 100


async def test_patch_of_too_many_preferences_is_refused_before_its_names_are_read(api: Api) -> None:
    patch = dict.fromkeys(f"c{n}" for n in range(1_001))

    assert code_of(await api.call("PATCH", PREFERENCES, json=patch)) == (422, "too_many")


async def test_patch_may_not_exceed_the_preferences_of_a_user(api: Api) -> None:
    full = {f"c{n}": {"push": True} for n in range(1_000)}
    await api.call("PUT", PREFERENCES, json=full)

    assert code_of(await api.call("PATCH", PREFERENCES, json={"d": {"push": True}})) == (422, "too_many")
    replaced = await api.call("PATCH", PREFERENCES, json={"c0": None, "d": {"push": True}})
    assert replaced.status_code == 200
    assert list(replaced.json()) == [*list(full)[1:], "d"]


async def test_invalid_contact_changes_nothing(api: Api) -> None:
    await api.call("PUT", CONTACT, json=SENT)

    assert code_of(await api.call("PATCH", CONTACT, json={"timezone": "Mars/Olympus"})) == (422, "invalid")
    assert code_of(await api.call("PATCH", CONTACT, json=[])) == (422, "invalid")
    assert code_of(await api.call("PUT", PREFERENCES, json={"user": {"sms": True}})) == (422, "unknown_field")
    assert (await api.call("GET", CONTACT)).json() == SENT


async def test_device_token_cannot_read_the_contact(api: Api) -> None:
    assert code_of(await api.call("GET", CONTACT, api.token())) == (403, "forbidden")


NIGHT = {"timezone": "UTC", "quiet_hours": {"from": "01:00", "to": "23:00"}}
PUSH = Intent("alice", "a", IntentKind.ITEM, "apns", "phone", seq=1, at_us=NOW_S * SECOND_US)


async def set_quiet_hours_now(api: Api) -> None:
    """Plan a push that waits for the end of the user's quiet hours."""
    await api.call("PUT", CONTACT, json=NIGHT)
    body = {"create": {"a": {"category": "news"}}}
    await api.call("POST", "/v1/users/alice/messages", json={"system": "gregor", "body": body})
    now_us, ledger = api.clock.now_us(), api.store.ledger
    await ledger.plan([PUSH], DeliveryState.PLANNED, None, now_us)
    claim = await ledger.claim(PUSH, "", now_us, now_us + SECOND_US)
    assert isinstance(claim, Claim)
    until_us = quiet_until(await api.store.contacts.contact("alice"), now_us)
    history = claim.delivery.history.waiting("quiet_hours", now_us, until_us)
    await ledger.record_outcome(claim.delivery, "", DeliveryState.WAITING, history, counts=False)


@pytest.mark.parametrize(
    ("method", "said", "is_sooner"),
    [
        ("PUT", {"timezone": "UTC"}, True),
        ("PUT", NIGHT, False),
        ("PATCH", {"quiet_hours": None}, True),
        ("PATCH", {"quiet_hours": {"to": "22:00"}}, True),
        ("PATCH", {"quiet_hours": {"to": "23:30"}, "locale": "it"}, False),
        ("PATCH", {"timezone": "Asia/Tokyo"}, True),
        ("PATCH", {"email": "alice@example.com"}, False),
        ("DELETE", None, True),
    ],
)
async def test_shorter_quiet_hours_expedite_deliveries(api: Api, method: str, said: Any, is_sooner: bool) -> None:
    await set_quiet_hours_now(api)

    answer = await api.call(method, CONTACT, json=said)

    assert answer.status_code in (200, 204)
    [entry] = await api.store.ledger.of_item("alice", "a")
    assert entry.is_expedited == is_sooner


async def test_device_that_ends_quiet_hours_expedites(api: Api) -> None:
    await set_quiet_hours_now(api)

    assert (await api.call("PUT", QUIET_HOURS, api.token(), json={"timezone": "Europe/Rome"})).status_code == 200

    [entry] = await api.store.ledger.of_item("alice", "a")
    assert entry.is_expedited
