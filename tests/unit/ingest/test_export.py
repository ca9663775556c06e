"""`GET /v1/users/{uid}/export`: all that is stored of a user, as lines."""

from __future__ import annotations

import asyncio
import json
import re
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest

from gregor.core.items.sync import View
from gregor.core.notify.intents import Intent, IntentKind
from gregor.core.notify.ledger import Claim, DeliveryAttempt, DeliveryHistory, DeliveryState
from gregor.store.contract.access import Ticket
from gregor.store.contract.devices import DeviceSession
from gregor.store.contract.store import Unavailable
from gregor.store.deleted_users import user_id_hash
from gregor.store.exported import PAGE, AgendaEntry, StoredEntry
from gregor.store.redis import keys
from gregor_ingest.routes.admin.export import CHUNK_BYTES, export_chunks
from gregor_ingest.schemas.export import EXPORTED_KEYS, LINES, NOT_EXPORTED
from tests.support.api import NOW_S, Api, code_of
from tests.support.builders import creating

PAGE_PATH = Path(__file__).parents[3] / "docs/how-to/export-or-delete-a-user.md"
EXPORT = "/v1/users/alice/export"
NOW_US = NOW_S * 1_000_000
APNS = {"provider": "apns", "token": "a1" * 32, "topic": "com.example.app"}


async def store_everything(api: Api) -> None:
    """Store something of every kind of line for alice."""
    user, devices, ledger = "/v1/users/alice", api.store.devices, api.store.ledger
    await api.call("PUT", f"{user}/devices/phone", json={"platform": "ios", "push": APNS})
    await api.call("PUT", f"{user}/devices/old", json={})
    await api.call("PUT", f"{user}/contact", json={"email": "alice@example.com"})
    await api.call("PUT", f"{user}/preferences", json={"*": {"push": False}})
    await api.call("POST", "/v1/contact/suppressions", json={"email": "alice@example.com"})
    await api.create("alice", "a", times={"expires": NOW_S + 60})
    await api.create("alice", "b")
    await api.create("alice", "every", for_device="*")
    await api.send("alice", {"dismiss": {"ids": ["every"]}}, api.token())
    interval = {"category": "shop", "end": NOW_S, "skip": ["x"]}
    await api.send("alice", {"dismiss": {"ids": ["b", "unknown"], "intervals": [interval]}})
    await api.call("POST", f"{user}/messages", json={"system": "bank", "body": {"amount": 5}, "id": "m1"})
    await api.send("alice", {"dismiss": {"ids": ["a"]}}, id="m2", not_before=NOW_S + 60)
    await api.call("DELETE", f"{user}/devices/old")
    await devices.open_session("alice", "phone", DeviceSession("s", "c", "g", NOW_US, True), NOW_US, 1_000_000)
    await devices.acknowledge("alice", View("phone", ("news",)), 1, NOW_US)
    await api.call("POST", f"{user}/revoke", json={"device": "tv"})
    await api.store.access.create_ticket(Ticket("alice", "phone", False, None, None), NOW_US, 1_000_000)
    push = Intent("alice", "a", IntentKind.ITEM, "apns", "phone", at_us=NOW_US)
    await ledger.plan([push], DeliveryState.PLANNED, None, NOW_US)
    claim = await ledger.claim(push, "", NOW_US, NOW_US + 1)
    assert isinstance(claim, Claim)
    history = DeliveryHistory(NOW_US, attempts=(DeliveryAttempt(NOW_US, "400", None, "gone"),), since_us=NOW_US)
    history = history.waiting("quiet", NOW_US, NOW_US + 5).ended(None, NOW_US)
    await ledger.record_outcome(claim.delivery, "", DeliveryState.DEAD, history)


async def export(api: Api) -> list[dict[str, Any]]:
    answer = await api.call("GET", EXPORT)
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/x-ndjson")
    return [json.loads(line) for line in answer.text.splitlines()]


async def test_export_has_every_kind_of_line(api: Api) -> None:
    await store_everything(api)

    found = await export(api)

    assert {line["kind"] for line in found} == {each.__struct_config__.tag for each in LINES}
    by_kind = {line["kind"]: line for line in found}
    assert found[0] == {"kind": "begin", "version": 1, "uid": "alice", "at": NOW_S}
    assert by_kind["contact"]["contact"] == {"email": "alice@example.com"}
    assert by_kind["suppression"]["email"] == "alice@example.com"
    assert by_kind["external"]["body"] == {"amount": 5}
    assert by_kind["delayed_message"]["message"]["id"] == "m2"
    assert by_kind["delivery"]["attempts"][0]["detail"] == "gone"
    assert by_kind["delivery"]["dead_letter"] == NOW_S
    assert by_kind["revocation"]["device"] == "tv"
    items = {line["id"]: line for line in found if line["kind"] == "item"}
    assert set(items["every"]["hidden"]) == {"phone"}
    assert items["b"]["gone"]["reason"] == "dismissed"
    assert {"kind": "work", "work": "expire", "of": "a", "at": NOW_S + 60} in found


async def test_delayed_message_is_exported_with_its_keys(api: Api) -> None:
    other = await api.make_key("ingest")
    for token in (api.key, other):
        await api.send("alice", {"dismiss": {"ids": ["a"]}}, token, id="m", not_before=NOW_S + 60)
    await api.send("alice", {"dismiss": {"ids": ["a"]}}, api.token(), id="n", not_before=NOW_S + 60)

    found = {line["message"]["id"]: line for line in await export(api) if line["kind"] == "delayed_message"}

    ids = [token.split("_")[1] for token in (api.key, other)]
    assert (found["m"]["keys"], found["m"]["key"], found["m"]["device"]) == (ids, ids[1], None)
    assert (found["n"]["keys"], found["n"]["key"], found["n"]["device"]) == ([], None, "phone")


async def test_lines_match_the_openapi_document(api: Api) -> None:
    await store_everything(api)
    document = (await api.call("GET", "/openapi.json", "")).json()
    answer = document["paths"]["/v1/users/{uid}/export"]["get"]["responses"]["200"]
    schema = answer["content"]["application/x-ndjson"]["schema"]["contentSchema"]

    for line in await export(api):
        jsonschema_rs.validate({**schema, "components": document["components"]}, line)


async def test_last_line_counts_the_lines_before_it(api: Api) -> None:
    await store_everything(api)

    *before, last = await export(api)

    assert last == {"kind": "end", "counts": Counter(line["kind"] for line in before)}


async def test_export_of_an_unknown_user_is_empty(api: Api) -> None:
    assert [line["kind"] for line in await export(api)] == ["begin", "end"]


async def test_export_masks_push_tokens_and_tickets(api: Api) -> None:
    await store_everything(api)
    text = (await api.call("GET", EXPORT)).text

    assert APNS["token"] not in text
    assert '"token":"…a1a1"' in text
    assert '{"kind":"tickets","count":1}' in text


async def test_export_is_an_audit_event(api: Api) -> None:
    await api.call("GET", EXPORT)
    [event] = (await api.call("GET", "/v1/audit")).json()["entries"]

    assert (event["act"], event["target"]) == ("exportUser", {"uid": user_id_hash("alice")})


async def test_export_needs_the_scope_admin(api: Api) -> None:
    others = await api.make_key("ingest", "read", "devices", "deliveries", "categories")

    assert code_of(await api.call("GET", EXPORT, others)) == (403, "forbidden")
    assert code_of(await api.call("GET", EXPORT, api.token())) == (403, "forbidden")


async def test_export_that_fails_has_no_last_line(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    async def stored(_uid: str) -> AsyncIterator[StoredEntry]:
        for n in range(2_000):
            yield AgendaEntry(f"xitem{n}", NOW_US)
        raise Unavailable("connection lost")

    monkeypatch.setattr(api.store.users, "stored", stored)
    chunks: list[bytes] = []

    with pytest.raises(Unavailable):
        async for chunk in export_chunks(api.store, "alice", NOW_US):
            chunks.append(chunk)

    assert b'"kind":"begin"' in chunks[0]
    assert b'"kind":"end"' not in b"".join(chunks)


async def test_export_is_sent_in_bounded_chunks(api: Api) -> None:
    for n in range(2 * PAGE):
        await api.create("alice", f"n{n}", body="x" * 500)

    sizes = [len(chunk) async for chunk in export_chunks(api.store, "alice", NOW_US)]

    assert len(sizes) > 5
    assert max(sizes) < CHUNK_BYTES + 2_000


async def test_other_requests_run_while_delayed_messages_are_exported(api: Api) -> None:
    for number in range(4):
        answer = await api.send("alice", [[[]]] * 20_000, system="kbfs", id=f"m{number}", not_before=NOW_S + 60)
        assert answer.status_code == 200
    turns = [0]

    async def count_turns() -> None:
        while True:
            turns[0] += 1
            await asyncio.sleep(0)

    counting = asyncio.create_task(count_turns())
    seen = [
        (turns[0], chunk.count(b'"kind":"delayed_message"'))
        async for chunk in export_chunks(api.store, "alice", NOW_US)
    ]
    counting.cancel()

    of_messages = [turn for turn, count in seen if count]
    assert len(set(of_messages)) == len(of_messages) == 4


async def test_export_of_many_items_is_charged(api: Api) -> None:
    key = await api.make_key("admin", rate=1)
    for start in range(0, 1_000, 100):
        names = (f"n{n}" for n in range(start, start + 100))
        await api.store.users.commit("alice", creating(*names, now_us=NOW_US))

    before = await api.call("GET", "/v1/users/bob/export", key)
    after = await api.call("GET", EXPORT, key)

    def left(answer: Any) -> int:
        return int(re.search(r"r=(\d+)", answer.headers["ratelimit"])[1])  # type: ignore[index]

    assert left(before) - left(after) == 3


# --- Kinds of keys


def kinds_of_keys() -> set[str]:
    """Return the kinds in the table of keys: the first part of a name that is not a placeholder."""
    names = re.findall(r"^``(\S+?)``", keys.__doc__ or "", re.MULTILINE)
    assert len(names) > 30
    return {re.sub(r"^(\{\w+\}|…):", "", name).partition(":")[0] for name in names}


def test_every_kind_of_key_is_exported_or_excepted() -> None:
    excepted = set(" ".join(NOT_EXPORTED).split())

    assert kinds_of_keys() - set(EXPORTED_KEYS) - excepted == set()
    assert not excepted & set(EXPORTED_KEYS)
    lines = {each.__struct_config__.tag for each in LINES} - {"begin", "end"}
    assert {kind for kinds in EXPORTED_KEYS.values() for kind in kinds.split()} == lines


def test_page_lists_exported_and_excepted_keys() -> None:
    text = PAGE_PATH.read_text("utf-8")

    for key, kinds in EXPORTED_KEYS.items():
        assert f"| `{key}` | {_code(kinds)} |" in text, key
    for names, reason in NOT_EXPORTED.items():
        assert f"| {_code(names)} | {reason} |" in text, names


def _code(names: str) -> str:
    return " ".join(f"`{name}`" for name in names.split())
