"""Callers whose key, token or user is deleted or revoked while a body arrives: nothing is written."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from gregor.store.contract.devices import revoked_token
from gregor.store.exported import StoredEntry, StoredItemEntry
from gregor_ingest.rate_limits import MAX_CONCURRENT
from gregor_ingest.routes.admin.export import CHUNK_BYTES
from tests.support.api import NDJSON, NOW_S, Api, code_of
from tests.support.wait import wait_until

ITEM = {"system": "gregor", "body": {"create": {"aa": {"category": "user.joined"}}}}
WRITES: list[tuple[str, str, Any]] = [
    ("POST", "/v1/users/alice/messages", ITEM),
    ("POST", "/v1/messages", [{"uid": "alice", **ITEM}]),
    ("PUT", "/v1/users/alice/preferences", {"user": {"push": False}}),
    ("PATCH", "/v1/users/alice/preferences", {"user": {"push": False}}),
    ("PUT", "/v1/users/alice/devices/phone", {"platform": "ios"}),
]
End = Callable[[Api, str], Awaitable[Any]]


async def delete_key(api: Api, key: str) -> None:
    await api.call("DELETE", f"/v1/keys/{key.split('_')[1]}")


async def revoke_tokens(api: Api, _token: str) -> None:
    await api.call("POST", "/v1/users/alice/revoke", json={})


async def delete_user(api: Api, _token: str) -> None:
    await api.call("DELETE", "/v1/users/alice")


async def slowly(api: Api, token: str, begin: bytes, end: End, rest: bytes) -> AsyncIterator[bytes]:
    yield begin
    await end(api, token)
    api.clock.advance(1)
    yield rest


async def is_empty(api: Api) -> bool:
    state = (await api.call("GET", "/v1/users/alice/state")).json()
    preferences = (await api.call("GET", "/v1/users/alice/preferences")).json()
    devices = (await api.call("GET", "/v1/users/alice/devices")).json()
    return (state["items"], preferences, devices["devices"]) == ({}, {}, {})


@pytest.mark.parametrize("write", WRITES)
@pytest.mark.parametrize("end", [delete_key, revoke_tokens, delete_user])
async def test_caller_loses_its_rights_while_sending(api: Api, write: tuple[str, str, Any], end: End) -> None:
    method, path, document = write
    token = await api.make_key("ingest", "devices") if end is delete_key else api.token()
    raw = json.dumps(document).encode()

    answer = await api.call(method, path, token, content=slowly(api, token, raw[:9], end, raw[9:]))

    assert code_of(answer) == (401, "unauthorised")
    assert await is_empty(api)


@pytest.mark.parametrize("write", WRITES)
async def test_write_during_a_deletion_leaves_nothing(api: Api, write: tuple[str, str, Any]) -> None:
    """The device is authorized before the deletion begins, and writes after it."""
    method, path, document = write
    await api.create("alice", "before")  # A message for a user who is not stored would be refused.
    raw, deletions = json.dumps(document).encode(), list[asyncio.Task[Any]]()

    async def body() -> AsyncIterator[bytes]:
        yield raw[:9]
        deletions.append(asyncio.create_task(api.call("DELETE", "/v1/users/alice")))
        await wait_until(lambda: api.store.devices.revoked_before("alice", "phone"), "the tokens are revoked")
        yield raw[9:]

    answer = await api.call(method, path, api.token(), content=body())

    assert answer.status_code == 200
    assert (await deletions[0]).status_code == 204
    assert await is_empty(api)


async def test_late_revocation_check_is_repeated(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """Redis says that the token is valid. The user is deleted before the answer arrives."""
    revoked_before = api.store.devices.revoked_before

    async def answered_late(uid: str, device: str) -> int | None:
        found = await revoked_before(uid, device)
        if found is None:
            await delete_user(api, "")
            api.clock.advance(1)
        return found

    monkeypatch.setattr(api.store.devices, "revoked_before", answered_late)

    for method, path, document in WRITES:
        answer = await api.call(method, path, api.token(), json=document)
        assert code_of(answer) == (401, "unauthorised")
    assert await is_empty(api)


DELAYED = {**ITEM, "not_before": NOW_S + 60, "id": "later"}
STALLED: list[tuple[str, Any]] = [
    ("/v1/users/alice/messages", ITEM),
    ("/v1/users/alice/messages?dry_run=true", ITEM),
    ("/v1/users/alice/messages", DELAYED),
    ("/v1/messages", [{"uid": "alice", **ITEM}, {"uid": "alice", **DELAYED}]),
]


@pytest.mark.parametrize(("path", "document"), STALLED)
async def test_message_that_was_planned_before_a_deletion_is_refused(
    api: Api, path: str, document: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process stalls between the last authorization of a device and its commit, for longer than a deletion."""
    token, stalls = api.token(), iter([delete_user])

    def stalled(call: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        async def after_the_deletion(*args: Any) -> Any:
            for stall in stalls:
                await stall(api, token)
            return await call(*args)

        return after_the_deletion

    for part, name in (("users", "commit"), ("users", "commit_many"), ("users", "rehearse"), ("agenda", "delay")):
        owner = getattr(api.store, part)
        monkeypatch.setattr(owner, name, stalled(getattr(owner, name)))

    answer = await api.call("POST", path, token, json=document)

    if isinstance(document, list):
        problems = [each["problem"] for each in answer.json()]
    else:
        assert code_of(answer) == (401, "unauthorised")
        problems = [answer.json()]
    assert {(each["code"], each["detail"]) for each in problems} == {("unauthorised", revoked_token().detail)}
    assert await is_empty(api)
    assert (await api.call("GET", "/v1/users/alice/messages")).json()["messages"] == []


@pytest.mark.parametrize("end", [delete_key, revoke_tokens])
async def test_stream_of_lines_ends_with_its_caller(api: Api, end: End) -> None:
    token = await api.make_key("ingest") if end is delete_key else api.token()
    first = json.dumps({"uid": "alice", **ITEM}).encode() + b"\n"
    lines = slowly(api, token, first, end, first.replace(b'"aa"', b'"bb"') + b"{}\n")

    answer = await api.call("POST", "/v1/messages", token, content=lines, headers=NDJSON)

    found = [json.loads(line) for line in answer.text.splitlines()]
    assert [each.get("problem", {}).get("code") for each in found] == [None, "unauthorised"]
    assert list((await api.call("GET", "/v1/users/alice/state")).json()["items"]) == ["aa"]


@pytest.mark.parametrize("kind", ["array", "lines"])
@pytest.mark.parametrize("end", [delete_key, revoke_tokens])
async def test_batch_ends_with_its_caller(api: Api, kind: str, end: End, monkeypatch: pytest.MonkeyPatch) -> None:
    """The caller loses its rights while the first part of a batch is committed, or waits for replicas."""
    monkeypatch.setattr("gregor_ingest.routes.messages.batch.CHUNK_ENTRIES", 2)
    token = await api.make_key("ingest") if end is delete_key else api.token()
    commit_many = api.store.users.commit_many

    async def commit_slowly(commits: Any) -> Any:
        results = await commit_many(commits)
        await end(api, token)
        api.clock.advance(1)
        return results

    monkeypatch.setattr(api.store.users, "commit_many", commit_slowly)
    create = [{"uid": "alice", "system": "gregor", "body": {"create": {f"i{n}": {"category": "c"}}}} for n in range(5)]
    content = json.dumps(create) if kind == "array" else "\n".join(map(json.dumps, create))
    headers = NDJSON if kind == "lines" else {"Content-Type": "application/json"}

    answer = await api.call("POST", "/v1/messages", token, content=content, headers=headers)

    found = answer.json() if kind == "array" else [json.loads(line) for line in answer.text.splitlines()]
    assert [each.get("problem", {}).get("code") for each in found] == [None, None, *["unauthorised"] * 3]
    assert sorted((await api.call("GET", "/v1/users/alice/state")).json()["items"]) == ["i0", "i1"]


async def test_export_ends_with_its_caller(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    key, stored = await api.make_key("admin"), api.store.users.stored
    for n in range(10):
        await api.create("alice", f"i{n}", body="x" * (CHUNK_BYTES // 4))

    async def stored_slowly(uid: str) -> AsyncIterator[StoredEntry]:
        async for entry in stored(uid):
            yield entry
            if isinstance(entry, StoredItemEntry) and entry.id == "i5":
                await delete_key(api, key)
                api.clock.advance(1)

    monkeypatch.setattr(api.store.users, "stored", stored_slowly)

    text = (await api.call("GET", "/v1/users/alice/export", key)).text

    assert '"i0"' in text
    assert '"i9"' not in text and '"end"' not in text


async def test_waiting_request_is_authorized_again(api: Api) -> None:
    token, path, release = api.token(), "/v1/users/alice/preferences", asyncio.Event()

    async def held() -> AsyncIterator[bytes]:
        yield b"{"
        await release.wait()
        yield b"}"

    holders = [asyncio.create_task(api.call("PUT", path, token, content=held())) for _ in range(MAX_CONCURRENT)]
    waiting = asyncio.create_task(api.call("GET", path, token))
    await wait_until(lambda: api.app.state.context.metrics.in_flight == MAX_CONCURRENT + 1, "all requests have begun")
    await revoke_tokens(api, token)
    api.clock.advance(1)
    release.set()

    assert {(await each).status_code for each in (*holders, waiting)} == {401}


async def test_slow_body_of_a_valid_caller_is_accepted(api: Api) -> None:
    async def nothing(_api: Api, _token: str) -> None:
        return None

    for token in (api.key, api.token()):
        raw = json.dumps(ITEM).encode()
        body = slowly(api, token, raw[:9], nothing, raw[9:])
        assert (await api.call("POST", "/v1/users/alice/messages", token, content=body)).status_code == 200
