"""Delayed messages: accepted at once, committed later by the scheduler, cancelled by id."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable
from typing import Any

import pytest

from gregor.core.limits import Limits
from gregor.core.messages import delayed, parse
from gregor.core.messages.delayed import MOST_KEYS, DelayedMessage, decode_delayed_message
from gregor.core.messages.model import Sender
from gregor.reference.store import MemoryStore
from gregor.store.contract.store import Unavailable
from gregor.store.delayed_senders import CHECK_INTERVAL_S
from tests.support.api import NOW_S, Api, code_of
from tests.unit.ingest.test_rate_limit_fields import limits_of

LATER = NOW_S + 3_600
BODY = {"create": {"a": {"category": "user.joined", "times": {"expires": "+60"}}}}


async def live(api: Api) -> list[str]:
    return list((await api.call("GET", "/v1/users/alice/state")).json()["items"])


async def cancel(api: Api, message_id: str, token: str | None = None) -> Any:
    return await api.call("DELETE", f"/v1/users/alice/messages/{message_id}", token)


async def test_delayed_message_changes_nothing_yet(api: Api) -> None:
    answer = await api.send("alice", BODY, id="m1", not_before=LATER)

    assert answer.status_code == 200
    assert answer.json() == {"id": "m1", "not_before": LATER}
    assert await live(api) == []
    raw = await api.store.agenda.delayed("alice", "m1")
    assert raw is not None
    kept = decode_delayed_message(raw)
    assert kept.document["body"] == BODY and kept.sender == Sender()


async def test_delayed_message_gets_an_id(api: Api) -> None:
    made = (await api.send("alice", BODY, not_before=LATER + 0.5)).json()
    assert made["not_before"] == LATER + 0.5 and len(made["id"]) == 32

    message = {"system": "kbfs", "body": 1, "not_before": LATER}
    answer = await api.call("POST", "/v1/users/alice/messages", json=message, headers={"Idempotency-Key": "m2"})
    assert answer.json()["id"] == "m2"
    assert await api.store.agenda.delayed("alice", "m2") is not None


async def test_reused_id_of_a_delayed_message_is_refused(api: Api) -> None:
    first = await api.send("alice", BODY, id="m1", not_before=LATER)

    assert (await api.send("alice", BODY, id="m1", not_before=LATER)).json() == first.json()
    assert code_of(await api.send("alice", BODY, id="m1", not_before=LATER + 1)) == (409, "id_reused")
    assert code_of(await api.send("alice", {"dismiss": {"ids": ["b"]}}, id="m1", not_before=LATER)) == (
        409,
        "id_reused",
    )


@pytest.mark.parametrize(
    ("first", "again"),
    [
        ({"create": {"a": {"category": "c", "body": 1}}}, {"create": {"a": {"body": 1.0, "category": "c"}}}),
        (
            {"create": {"a": {"category": "c"}}},
            {"create": {"a": {"category": "c", "body": None, "times": {"remind_at": []}}}, "dismiss": None},
        ),
        (
            {"dismiss": {"ids": ["b", "c"], "intervals": [{"category_prefix": "c"}]}},
            {"dismiss": {"ids": ["c", "b"], "intervals": [{"category_prefix": "c.", "skip": []}]}},
        ),
    ],
)
async def test_equal_content_in_other_spelling_is_a_repeat(api: Api, first: Any, again: Any) -> None:
    kept = (await api.send("alice", first, id="m1", not_before=LATER)).json()

    repeat = await api.send("alice", again, id="m1", not_before=float(LATER))
    [line] = (
        await api.call(
            "POST",
            "/v1/messages",
            json=[{"uid": "alice", "system": "gregor", "body": again, "id": "m1", "not_before": LATER}],
        )
    ).json()

    assert (repeat.status_code, repeat.json(), line["receipt"]) == (200, kept, kept)
    assert code_of(await api.send("alice", again, id="m1", not_before=LATER, device="phone")) == (409, "id_reused")


async def test_delayed_message_is_cancelled_once(api: Api) -> None:
    await api.send("alice", BODY, id="m1", not_before=LATER)

    assert (await cancel(api, "m1")).status_code == 204
    assert code_of(await cancel(api, "m1")) == (404, "not_found")
    assert code_of(await cancel(api, "never")) == (404, "not_found")


@pytest.mark.parametrize(
    ("members", "expected"),
    [
        ({"not_before": "tomorrow"}, (422, "invalid")),
        ({"not_before": -1}, (422, "time_out_of_range")),
        ({"not_before": "+60"}, (422, "invalid")),
    ],
)
async def test_invalid_not_before_is_refused(api: Api, members: dict[str, Any], expected: tuple[int, str]) -> None:
    answer = await api.send("alice", BODY, **members)

    assert code_of(answer) == expected
    assert answer.json()["errors"][0]["pointer"] == "/not_before"


async def test_claimed_message_is_neither_listed_nor_cancelled(api: Api) -> None:
    await api.send("alice", BODY, id="m1", not_before=LATER)
    document = await api.store.agenda.delayed("alice", "m1")
    assert document is not None and await api.store.agenda.claim_delayed("alice", "m1", document)

    assert code_of(await cancel(api, "m1")) == (404, "not_found")
    assert (await api.call("GET", "/v1/users/alice/messages")).json() == {"messages": []}
    assert (await api.send("alice", BODY, id="m1", not_before=LATER)).status_code == 200
    claimed = await api.store.agenda.delayed("alice", "m1")
    assert claimed is not None and decode_delayed_message(claimed) == decode_delayed_message(document)


async def test_delayed_message_is_validated_at_once(api: Api) -> None:
    def body(created: int) -> dict[str, Any]:
        return {"create": {"a": {"category": "user.joined", "times": {"created": created}}}}

    assert code_of(await api.send("alice", body(LATER + 3_601), not_before=LATER)) == (422, "created_in_future")
    assert (await api.send("alice", body(LATER + 3_000), not_before=LATER)).status_code == 200

    limited = await api.make_key("ingest", prefixes=["mail"])
    assert code_of(await api.send("alice", BODY, limited, not_before=LATER)) == (403, "category_not_allowed")
    assert code_of(await api.send("alice", {"flush": True}, limited, not_before=LATER)) == (403, "forbidden")


@pytest.mark.parametrize("is_batch", [False, True])
async def test_delayed_message_keeps_the_time_of_its_token(api: Api, is_batch: bool) -> None:
    token = api.token()
    api.clock.advance(5)
    delayed = {"system": "gregor", "body": {"dismiss": {"ids": ["a"]}}, "id": "m", "not_before": NOW_S + 60}
    if is_batch:
        await api.call("POST", "/v1/messages", token, json=[{"uid": "alice", **delayed}])
    else:
        await api.call("POST", "/v1/users/alice/messages", token, json=delayed)

    [stored] = map(decode_delayed_message, await api.store.agenda.list_delayed("alice"))

    assert (stored.issued_us, stored.accepted_us) == (NOW_S * 1_000_000, (NOW_S + 5) * 1_000_000)


async def test_delayed_messages_of_a_user_are_limited() -> None:
    limits = Limits(delayed=2)
    async with Api(MemoryStore(limits)) as api:
        for number in range(2):
            assert (await api.send("alice", BODY, id=f"m{number}", not_before=LATER)).status_code == 200

        assert code_of(await api.send("alice", BODY, id="m2", not_before=LATER)) == (409, "state_full")
        assert (await api.send("alice", BODY, id="m1", not_before=LATER)).status_code == 200


async def test_device_cancels_its_own_delayed_messages(api: Api) -> None:
    phone, laptop, other = api.token(), api.token(device="laptop"), api.token("bob")
    answer = await api.send("alice", BODY, phone, id="m1", not_before=LATER)
    assert answer.json() == {"id": "m1", "not_before": LATER}
    raw = await api.store.agenda.delayed("alice", "m1")
    assert raw is not None and decode_delayed_message(raw).sender.device == "phone"

    assert code_of(await api.send("bob", BODY, phone, not_before=LATER)) == (403, "forbidden")
    assert code_of(await cancel(api, "m1", other)) == (403, "forbidden")
    assert code_of(await cancel(api, "m1", api.token(category_filter=["mail"]))) == (404, "not_found")
    assert code_of(await cancel(api, "m1", laptop)) == (404, "not_found")
    assert (await cancel(api, "m1", phone)).status_code == 204


async def test_cancelling_needs_the_ingest_scope(api: Api) -> None:
    await api.send("alice", BODY, id="m1", not_before=LATER)

    assert code_of(await cancel(api, "m1", await api.make_key("read"))) == (403, "forbidden")
    assert (await cancel(api, "m1", await api.make_key("ingest"))).status_code == 204


@pytest.mark.parametrize("is_ndjson", [False, True])
async def test_batch_with_delayed_lines(api: Api, is_ndjson: bool) -> None:
    lines = [
        {"uid": "alice", "system": "gregor", "body": BODY},
        {"uids": ["alice", "bob"], "system": "gregor", "body": BODY, "id": "m1", "not_before": LATER},
        {"uid": "alice", "system": "gregor", "body": BODY, "id": "m1", "not_before": LATER + 1},
    ]
    if is_ndjson:
        content = b"".join(json.dumps(line).encode() + b"\n" for line in lines)
        headers = {"Content-Type": "application/x-ndjson"}
        answer = await api.call("POST", "/v1/messages", content=content, headers=headers)
        found = [json.loads(line) for line in answer.text.splitlines()]
    else:
        found = (await api.call("POST", "/v1/messages", json=lines)).json()

    assert found[0]["receipt"]["created"] == ["a"]
    assert found[1:3] == [
        {"line": 1, "uid": uid, "receipt": {"id": "m1", "not_before": LATER}} for uid in ("alice", "bob")
    ]
    assert found[3]["problem"]["code"] == "id_reused"


async def test_concurrent_delays_of_one_id_are_one_message(api: Api) -> None:
    sends = (api.send("alice", BODY, id="m1", not_before=LATER + n % 2) for n in range(6))
    answers = await asyncio.gather(*sends)

    assert sorted({answer.status_code for answer in answers}) == [200, 409]


async def test_delayed_messages_are_listed_by_time(api: Api) -> None:
    await api.send("alice", BODY, id="m2", not_before=LATER + 1)
    await api.send("alice", BODY, api.token(), id="m1", not_before=LATER)
    await api.send("alice", {"dismiss": {"ids": ["x"]}}, api.token(device="laptop"), id="m3", not_before=LATER + 2)

    listed = (await api.call("GET", "/v1/users/alice/messages")).json()["messages"]

    assert [(each["id"], each["device"], each["accepted"]) for each in listed] == [
        ("m1", "phone", NOW_S),
        ("m2", None, NOW_S),
        ("m3", "laptop", NOW_S),
    ]
    assert code_of(await api.call("GET", "/v1/users/bob/messages", api.token())) == (403, "forbidden")
    assert (await api.call("GET", "/v1/users/alice/messages", api.token())).json()["messages"] == listed[:2]
    limited = await api.make_key("ingest", prefixes=["other"])
    assert (await api.call("GET", "/v1/users/alice/messages", limited)).json() == {"messages": []}


async def test_delayed_messages_are_cancelled_with_a_revocation(api: Api) -> None:
    await api.send("alice", BODY, id="backend", not_before=LATER)
    for device in ("phone", "laptop"):
        await api.send("alice", BODY, api.token(device=device), id=device, not_before=LATER)

    async def waiting() -> list[str]:
        listed = (await api.call("GET", "/v1/users/alice/messages")).json()["messages"]
        return [each["id"] for each in listed]

    await api.call("POST", "/v1/users/alice/revoke", json={"device": "phone", "delayed": True})
    assert await waiting() == ["backend", "laptop"]
    await api.call("POST", "/v1/users/alice/revoke", json={})
    assert await waiting() == ["backend", "laptop"]
    await api.call("POST", "/v1/users/alice/revoke", json={"delayed": True})
    assert await waiting() == ["backend"]


async def test_forgotten_device_loses_its_delayed_messages(api: Api) -> None:
    await api.send("alice", BODY, api.token(), id="m1", not_before=LATER)

    await api.call("DELETE", "/v1/users/alice/devices/phone")

    assert (await api.call("GET", "/v1/users/alice/messages")).json() == {"messages": []}


async def test_delay_is_bounded_in_time(api: Api) -> None:
    month = 30 * 86_400
    assert code_of(await api.send("alice", BODY, not_before=NOW_S + month + 1)) == (422, "time_out_of_range")
    assert (await api.send("alice", BODY, not_before=NOW_S + month)).status_code == 200


async def test_bodies_of_listed_messages_are_not_decoded(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """256 KiB of brackets would take 0.1 s, and a user may have four such messages."""
    for number in range(4):
        answer = await api.send("alice", [[[]]] * 1_000, system="kbfs", id=f"m{number}", not_before=LATER)
        assert answer.status_code == 200
    checked: list[object] = []

    def canonical_json(body: object) -> bytes:
        checked.append(body)
        return b"null"

    monkeypatch.setattr(parse, "canonical_json", canonical_json)

    listed = await api.call("GET", "/v1/users/alice/messages")
    cancelled = await cancel(api, "m0")

    assert len(listed.json()["messages"]) == 4
    assert cancelled.status_code == 204
    assert set(map(repr, checked)) == {"None"}


async def test_repeat_does_not_decode_the_stored_message(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """A repeat is short, and the stored message may have 256 KiB of brackets."""
    first = await api.send("alice", [[[]]] * 1_000, system="kbfs", id="m1", not_before=LATER)
    decoded: list[bytes] = []
    monkeypatch.setattr(delayed, "decode_delayed_message", decoded.append)

    assert code_of(await api.send("alice", 1, system="kbfs", id="m1", not_before=LATER)) == (409, "id_reused")
    again = await api.send("alice", [[[]]] * 1_000, system="kbfs", id="m1", not_before=LATER)

    assert again.json() == first.json()
    assert decoded == []


async def test_message_of_an_earlier_release_is_still_compared(api: Api) -> None:
    """The stored message has no fingerprint."""
    message = {"id": "m1", "system": "kbfs", "not_before": LATER, "body": {"a": 1, "b": 2}}
    stored = DelayedMessage(message, Sender(), 1).encode().replace(b',"fingerprint":""', b"")
    await api.store.agenda.delay("alice", "m1", stored, LATER * 1_000_000)

    same = await api.send("alice", {"b": 2, "a": 1}, system="kbfs", id="m1", not_before=LATER)
    other = await api.send("alice", {"b": 2, "a": 2}, system="kbfs", id="m1", not_before=LATER)

    assert same.status_code == 200
    assert code_of(other) == (409, "id_reused")


# ---- repeats by other senders

DISMISSAL = {"dismiss": {"ids": ["i-x", "i-y"]}}


async def stored(api: Api, message_id: str = "m1") -> DelayedMessage:
    raw = await api.store.agenda.delayed("alice", message_id)
    assert raw is not None
    return decode_delayed_message(raw)


async def test_message_remembers_the_newest_keys_that_sent_it(api: Api) -> None:
    keys = [await api.make_key("ingest") for _ in range(MOST_KEYS + 2)]
    for key in (*keys, keys[-1]):
        answer = await api.send("alice", BODY, key, id="m1", not_before=LATER)
        assert answer.json() == {"id": "m1", "not_before": LATER}
        api.clock.advance(1)

    kept = await stored(api)

    assert kept.key_ids == tuple(key.split("_")[1] for key in keys[-MOST_KEYS:])
    assert (kept.accepted_us, kept.document["body"]) == (NOW_S * 1_000_000, BODY), "the first content is kept"


async def test_message_remembers_the_newest_token_of_its_device(api: Api) -> None:
    old = api.token()
    api.clock.advance(5)
    for token in (old, api.token(), old):
        assert (await api.send("alice", BODY, token, id="m1", not_before=LATER)).status_code == 200
    assert (await stored(api)).issued_us == (NOW_S + 5) * 1_000_000

    # A key may send as the device.
    assert (await api.send("alice", BODY, id="m1", not_before=LATER, device="phone")).status_code == 200
    kept = await stored(api)
    assert kept.was_sent_without_key and kept.key_ids == (api.key.split("_")[1],)


async def test_dismissal_of_ids_from_a_sender_with_other_limits_is_another_message(api: Api) -> None:
    narrow, other_narrow = [await api.make_key("ingest", prefixes=["x"]) for _ in range(2)]
    for key in (narrow, other_narrow):
        assert (await api.send("alice", DISMISSAL, key, id="m1", not_before=LATER)).status_code == 200

    assert code_of(await api.send("alice", DISMISSAL, id="m1", not_before=LATER)) == (409, "id_reused")
    await api.send("alice", DISMISSAL, id="m2", not_before=LATER)
    assert code_of(await api.send("alice", DISMISSAL, narrow, id="m2", not_before=LATER)) == (409, "id_reused")

    wide, sweep = await api.make_key("ingest"), {"dismiss": {"intervals": [{"category": "x"}]}}
    for key in (narrow, wide):
        answer = await api.send("alice", sweep, key, id="m3", not_before=LATER)
        assert answer.status_code == 200, "the limits do not change what it does"


async def test_message_that_would_be_dropped_is_replaced(api: Api) -> None:
    narrow, wide = await api.make_key("ingest", prefixes=["x"]), await api.make_key("ingest")
    await api.send("alice", DISMISSAL, narrow, id="m1", not_before=LATER)
    await api.send("alice", DISMISSAL, api.token(), id="m2", not_before=LATER)
    for message_id in ("m1", "m2"):
        assert code_of(await api.send("alice", DISMISSAL, wide, id=message_id, not_before=LATER)) == (409, "id_reused")

    await api.store.access.delete_key(narrow.split("_")[1])
    await api.call("POST", "/v1/users/alice/revoke", json={"device": "phone"})
    for message_id in ("m1", "m2"):
        answer = await api.send("alice", DISMISSAL, wide, id=message_id, not_before=LATER + 5)
        assert answer.json() == {"id": message_id, "not_before": LATER + 5}

    assert (await stored(api)).sender == (await stored(api, "m2")).sender == Sender()
    due = await api.store.agenda.due_work("alice", (LATER + 9) * 1_000_000, 9)
    assert [(work.name, work.at_us) for work in due] == [(name, (LATER + 5) * 1_000_000) for name in ("m1", "m2")]


async def test_repeat_of_a_claimed_message_adds_its_sender(api: Api) -> None:
    """Its scheduler may die, and the first key be deleted, before the next scheduler commits it."""
    await api.send("alice", BODY, id="m1", not_before=LATER)
    document = await api.store.agenda.delayed("alice", "m1")
    assert document is not None and await api.store.agenda.claim_delayed("alice", "m1", document)

    assert (await api.send("alice", BODY, await api.make_key("ingest"), id="m1", not_before=LATER)).status_code == 200

    assert len((await stored(api)).key_ids) == 2
    assert code_of(await cancel(api, "m1")) == (404, "not_found")


async def test_revocation_cancels_what_only_revoked_tokens_sent(api: Api) -> None:
    old = api.token()
    for message_id in ("old", "both", "key"):
        await api.send("alice", BODY, old, id=message_id, not_before=LATER)
    await api.send("alice", BODY, id="key", not_before=LATER, device="phone")
    api.clock.advance(5)
    for message_id in ("both", "new"):
        await api.send("alice", BODY, api.token(), id=message_id, not_before=LATER)

    await api.call("POST", "/v1/users/alice/revoke", json={"issued_before": NOW_S + 1, "delayed": True})

    listed = (await api.call("GET", "/v1/users/alice/messages")).json()["messages"]
    assert sorted(each["id"] for each in listed) == ["both", "key", "new"]


@pytest.mark.parametrize("is_device", [False, True])
async def test_message_of_the_previous_release_gets_a_sender(api: Api, is_device: bool) -> None:
    """Its stored form has no list of keys."""
    await api.send("alice", BODY, api.token() if is_device else None, id="m1", not_before=LATER)
    raw = await api.store.agenda.delayed("alice", "m1")
    assert raw is not None and b',"keys":[]}' in raw
    await api.store.agenda.replace_delayed("alice", "m1", raw, raw.replace(b',"keys":[]}', b"}"))
    assert (await stored(api)) == decode_delayed_message(raw)
    other = await api.make_key("ingest")

    answer = await api.send(
        "alice", BODY, other, id="m1", not_before=LATER, **({"device": "phone"} if is_device else {})
    )

    assert answer.status_code == 200
    kept = await stored(api)
    assert kept.key_ids[-1] == other.split("_")[1]
    assert (len(kept.key_ids), kept.issued_us) == ((1, NOW_S * 1_000_000) if is_device else (2, 0))


# ---- room for others: messages that would be dropped


@pytest.mark.parametrize("is_batch", [False, True])
async def test_messages_without_a_sender_with_rights_make_room(is_batch: bool) -> None:
    """Someone with a leaked key or token fills the limit of a user: backends need it after the deletion."""
    async with Api(MemoryStore(Limits(delayed=4))) as api:
        leaked = await api.make_key("ingest", prefixes=["x"])
        for message_id in ("leaked-1", "leaked-2"):
            await api.send("alice", DISMISSAL, leaked, id=message_id, not_before=LATER)
        await api.send("alice", BODY, api.token(), id="revoked", not_before=LATER)
        await api.send("alice", BODY, api.token(device="desk"), id="valid", not_before=LATER)
        assert code_of(await api.send("alice", BODY, id="new-1", not_before=LATER)) == (409, "state_full")

        await api.store.access.delete_key(leaked.split("_")[1])
        await api.call("POST", "/v1/users/alice/revoke", json={"device": "phone"})
        api.clock.advance(CHECK_INTERVAL_S)
        new: list[dict[str, Any]] = [{"id": f"new-{number}", "not_before": LATER, "body": BODY} for number in range(3)]
        if is_batch:
            lines = [{"uid": "alice", "system": "gregor", **each} for each in new]
            found = (await api.call("POST", "/v1/messages", json=lines)).json()
            assert all("receipt" in each for each in found)
        else:
            assert {(await api.send("alice", **each)).status_code for each in new} == {200}

        listed = (await api.call("GET", "/v1/users/alice/messages")).json()["messages"]
        assert sorted(each["id"] for each in listed) == ["new-0", "new-1", "new-2", "valid"]
        due = await api.store.agenda.due_work("alice", LATER * 1_000_000, 9)
        assert sorted(work.name for work in due) == ["new-0", "new-1", "new-2", "valid"]


async def test_message_that_was_repeated_by_a_sender_with_rights_stays() -> None:
    async with Api(MemoryStore(Limits(delayed=3))) as api:
        old, new = [await api.make_key("ingest") for _ in range(2)]
        for message_id in ("old", "both", "claimed"):
            await api.send("alice", BODY, old, id=message_id, not_before=LATER)
        await api.send("alice", BODY, new, id="both", not_before=LATER)
        await api.store.agenda.claim_delayed("alice", "claimed", await document_of(api, "claimed"))
        await api.store.access.delete_key(old.split("_")[1])

        answers = [await api.send("alice", BODY, id=f"new-{number}", not_before=LATER) for number in range(2)]

        assert [answer.status_code for answer in answers] == [200, 409]
        stored = map(decode_delayed_message, await api.store.agenda.list_delayed("alice"))
        assert sorted(each.id for each in stored) == ["both", "claimed", "new-0"]


async def test_senders_of_a_full_user_are_looked_at_seldom() -> None:
    """A sender could repeat the refused message without end. Each look is charged to it, even into debt."""
    async with Api(MemoryStore(Limits(delayed=300)), device_rate=0.001, device_burst=20) as api:
        for number in range(300):
            await api.send("alice", BODY, id=f"m{number}", not_before=LATER)
        phone, answers = api.token(), []
        for wait_s in (0, 1, CHECK_INTERVAL_S - 1):
            api.clock.advance(wait_s)
            answers.append(await api.send("alice", BODY, phone, not_before=LATER))

    assert [code_of(answer) for answer in answers] == [(409, "state_full")] * 3
    left = [limits_of(answer)["messages"][2] for answer in answers]
    assert [20 - left[0], left[0] - left[1], left[1] - left[2]] == [1 + 2, 1, 1 + 2]


async def test_senders_of_full_users_are_looked_at_one_user_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch names 200 users. Looking at all of them at once took 1 MiB for each in ingest, and in Redis."""
    uids = [f"user-{number}" for number in range(8)]
    async with Api(MemoryStore(Limits(delayed=5, delayed_bytes=1 << 20))) as api:
        old = await api.make_key("ingest")
        for uid in uids:
            for number in range(5):
                await api.send(uid, "x" * 200_000, old, id=f"m{number}", system="kbfs", not_before=LATER)
        await api.store.access.delete_key(old.split("_")[1])
        read, list_delayed = Reads(), api.store.agenda.list_delayed

        async def reading(*arguments: Any) -> list[bytes]:
            return await read.of(list_delayed(*arguments))

        monkeypatch.setattr(api.store.agenda, "list_delayed", reading)
        line = {"uids": uids, "id": "new", "system": "gregor", "body": BODY, "not_before": LATER}
        found = (await api.call("POST", "/v1/messages", json=[line])).json()
        accepted_at_once = [each for each in found if "receipt" in each]
        answers = [await api.send(uid, BODY, id="next", not_before=LATER) for uid in uids]

    assert len(accepted_at_once) == 1
    assert {answer.status_code for answer in answers} == {200}
    assert (read.most_at_once, read.most_bytes // 100_000) == (1, 2)


class Reads:
    """Counts concurrent reads, and their bytes."""

    def __init__(self) -> None:
        self._running = self.most_at_once = self.most_bytes = 0

    async def of(self, reading: Awaitable[list[bytes]]) -> list[bytes]:
        self._running += 1
        self.most_at_once = max(self.most_at_once, self._running)
        await asyncio.sleep(0)
        stored = await reading
        self._running -= 1
        self.most_bytes = max(self.most_bytes, sum(map(len, stored)))
        return stored


async def test_senders_of_a_full_user_are_charged_before_they_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """A read of 1 MiB is not free if it fails or takes long."""
    async with Api(MemoryStore(Limits(delayed=2)), device_rate=0.001, device_burst=20) as api:
        for number in range(2):
            await api.send("alice", "x" * 140_000, id=f"m{number}", system="kbfs", not_before=LATER)

        async def unavailable(*_: Any) -> list[bytes]:
            raise Unavailable("no server")

        monkeypatch.setattr(api.store.agenda, "list_delayed", unavailable)
        phone = api.token()
        failed = await api.send("alice", BODY, phone, not_before=LATER)
        monkeypatch.undo()
        refused = await api.send("alice", BODY, phone, not_before=LATER)

    assert code_of(failed)[0] == 503
    assert code_of(refused) == (409, "state_full")
    assert limits_of(refused)["messages"][2] == 20 - (1 + 2) - 1


async def document_of(api: Api, message_id: str) -> bytes:
    document = await api.store.agenda.delayed("alice", message_id)
    assert document is not None
    return document
