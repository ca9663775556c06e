"""A broadcast over HTTP: its errors name the field, a repeat is the same job, and it needs its own scope."""

from __future__ import annotations

from typing import Any

import pytest

from gregor.jobs.kinds import JobTools, job_steps
from gregor.jobs.runner import JobRunner
from gregor.store.contract.devices import DeviceSession
from gregor.store.jobs import MAX_OPEN_JOBS
from tests.support.api import Api, code_of
from tests.support.builders import NOW_US

MESSAGE = {"system": "kbfs.favorites", "body": {"action": "reload"}}


async def broadcast(
    api: Api, status: int = 202, token: str | None = None, key: str | None = None, **fields: Any
) -> Any:
    headers = {} if key is None else {"Idempotency-Key": key}
    answer = await api.call("POST", "/v1/broadcast", token, json={**MESSAGE, **fields}, headers=headers)
    assert answer.status_code == status, answer.text
    return answer


async def run(api: Api, job_id: str) -> dict[str, Any]:
    """Execute a job as a scheduler does, and return it."""
    await JobRunner(api.store.jobs, api.clock, job_steps(JobTools(api.store, api.clock, api.settings.limits))).run(
        job_id
    )
    job: dict[str, Any] = (await api.call("GET", f"/v1/jobs/{job_id}")).json()
    return job


async def connect(api: Api, *uids: str) -> None:
    now_us = api.clock.now_us()
    for uid in uids:
        await api.store.devices.ensure_device(uid, "phone", now_us)
        await api.store.devices.open_session(uid, "phone", DeviceSession("s", f"c-{uid}", "g", now_us), now_us, 10**7)


async def received(api: Api, uid: str) -> list[Any]:
    """Return the external messages of a user since the beginning."""
    cursor = (await api.call("GET", f"/v1/users/{uid}/sync")).json()["cursor"].partition("-")[0] + "-0"
    answer = await api.call("GET", f"/v1/users/{uid}/sync", params={"cursor": cursor})
    return [each["body"] for each in answer.json().get("external", ())]


async def test_each_online_user_gets_a_broadcast_once(api: Api) -> None:
    await connect(api, "alice", "bob")
    await api.store.devices.ensure_device("offline", "phone", NOW_US)
    for _ in range(2):
        assert (await broadcast(api, id="b1", spread=0)).headers["Location"] == "/v1/jobs/b1"
        job = await run(api, "b1")

    assert (job["kind"], job["state"], job["done"]) == ("broadcast", "done", job["total"])
    assert job["result"] == {"sent": 2, "offline": 1, "refused": 0}
    assert [await received(api, uid) for uid in ("alice", "bob", "offline")] == [
        [MESSAGE["body"]],
        [MESSAGE["body"]],
        [],
    ]


async def test_broadcast_to_all_reaches_users_offline(api: Api) -> None:
    await api.store.devices.ensure_device("alice", "phone", NOW_US)
    await broadcast(api, id="b1", spread=0, audience="all")

    assert (await run(api, "b1"))["result"] == {"sent": 1, "offline": 0, "refused": 0}
    assert await received(api, "alice") == [MESSAGE["body"]]


async def test_device_that_reconnects_gets_the_broadcast(api: Api) -> None:
    await connect(api, "alice", "bob")
    session = DeviceSession("s", "c-bob", "g", NOW_US)
    await api.store.devices.close_session("bob", "phone", session, api.clock.now_us())
    api.clock.advance(290)
    await broadcast(api, id="b1", spread=0)
    api.clock.advance(5)

    assert (await run(api, "b1"))["result"]["sent"] >= 1
    assert await received(api, "bob") == [MESSAGE["body"]]


@pytest.mark.parametrize(
    ("fields", "status", "code", "pointer"),
    [
        ({"system": "gregor"}, 422, "invalid", "/system"),
        ({"system": "no system"}, 422, "invalid_id", "/system"),
        ({"body": "x" * 4_095}, 413, "message_too_large", "/body"),
        ({"spread": -1}, 422, "invalid", "/spread"),
        ({"spread": 86_401}, 422, "invalid", "/spread"),
        ({"audience": "everyone"}, 422, "invalid", "/audience"),
        ({"id": "a b"}, 422, "invalid_id", "/id"),
        ({"uid": "alice"}, 422, "unknown_field", "/uid"),
    ],
)
async def test_invalid_broadcast_names_the_field(
    api: Api, fields: dict[str, Any], status: int, code: str, pointer: str
) -> None:
    answer = await broadcast(api, status, **fields)

    assert code_of(answer) == (status, code)
    assert [error["pointer"] for error in answer.json()["errors"]] == [pointer]
    assert (await api.store.jobs.page(None, 1)).jobs == []


async def test_missing_member_of_a_broadcast_is_named(api: Api) -> None:
    answer = await api.call("POST", "/v1/broadcast", json={"system": "chat"})

    assert code_of(answer) == (422, "missing_field")
    assert answer.json()["errors"][0]["pointer"] == "/body"


async def test_repeated_broadcast_is_the_same_job(api: Api) -> None:
    first = (await broadcast(api, key="b1", spread=5)).json()

    assert (await broadcast(api, id="b1", spread=5)).json() == first
    assert code_of(await broadcast(api, 409, id="b1", spread=6)) == (409, "id_reused")
    assert code_of(await broadcast(api, 409, id="b1", spread=5, body=1)) == (409, "id_reused")


@pytest.mark.parametrize(("first", "other"), [(1, True), (0, False), ({"n": [1]}, {"n": [True]}), (1, "1")])
async def test_broadcast_of_other_content_is_refused(api: Api, first: Any, other: Any) -> None:
    await broadcast(api, id="b1", body=first)

    assert code_of(await broadcast(api, 409, id="b1", body=other)) == (409, "id_reused")


async def test_broadcast_in_other_spelling_is_a_repeat(api: Api) -> None:
    first = (await broadcast(api, id="b1", body={"a": 1.0, "b": 2})).json()

    assert (await broadcast(api, id="b1", body={"b": 2, "a": 1})).json() == first


@pytest.mark.parametrize("name", ["audit-2026-11-30", "rewrite-2", "flush-1"])
async def test_broadcast_id_of_another_job_kind_is_refused(api: Api, name: str) -> None:
    assert code_of(await broadcast(api, 422, id=name)) == (422, "invalid_id")
    assert code_of(await broadcast(api, 422, key=name)) == (422, "invalid_id")
    assert (await broadcast(api, id=name.replace("-", "."))).json()["kind"] == "broadcast"


async def test_broadcasts_leave_room_for_a_flush(api: Api) -> None:
    key = await api.make_key("broadcast")
    for number in range(MAX_OPEN_JOBS // 2):
        await broadcast(api, token=key, id=f"b{number}")

    assert code_of(await broadcast(api, 422, token=key, id="more")) == (422, "too_many")
    assert (await api.call("POST", "/v1/flush", json={})).status_code == 202


async def test_key_sees_the_jobs_that_it_may_start(api: Api) -> None:
    key = await api.make_key("broadcast")
    await api.call("POST", "/v1/flush", json={"id": "f1"})
    await broadcast(api, token=key, id="b1")

    assert [job["id"] for job in (await api.call("GET", "/v1/jobs", key)).json()["jobs"]] == ["b1"]
    assert len((await api.call("GET", "/v1/jobs")).json()["jobs"]) == 2
    for method in ("GET", "DELETE"):
        assert code_of(await api.call(method, "/v1/jobs/f1", key)) == (404, "not_found")
    assert (await api.call("DELETE", "/v1/jobs/b1", key)).json()["state"] == "cancelled"
    assert code_of(await api.call("POST", "/v1/flush", key, json={})) == (403, "forbidden")
    assert code_of(await broadcast(api, 403, await api.make_key("ingest"))) == (403, "forbidden")


async def test_broadcast_is_audited(api: Api) -> None:
    await broadcast(api, id="b1")
    await api.call("DELETE", "/v1/jobs/b1")

    events = (await api.call("GET", "/v1/audit")).json()["entries"]
    assert [(event["act"], event["target"]) for event in events] == [
        ("cancelJob", {"job": "b1"}),
        ("broadcast", {"created": "b1", "system": "kbfs.favorites"}),
    ]
