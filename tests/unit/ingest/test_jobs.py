"""Jobs over HTTP: a flush of all users is one, and a repeat of its request is not a second flush."""

from __future__ import annotations

from typing import Any

import pytest

from gregor.store.jobs import JobState
from tests.support.api import NOW_S, Api, code_of
from tests.support.builders import NOW_US

ID = "night-of-march-3"


async def flush(api: Api, status: int = 202, key: str | None = None, **body: Any) -> Any:
    headers = {} if key is None else {"Idempotency-Key": key}
    answer = await api.call("POST", "/v1/flush", json=body, headers=headers)
    assert answer.status_code == status, answer.text
    return answer


async def epoch(api: Api) -> str:
    cursor: str = (await api.call("GET", "/v1/users/alice/sync")).json()["cursor"]
    return cursor.split("-")[0]


@pytest.mark.parametrize("form", ["header", "field"])
async def test_repeated_flush_is_not_a_second_one(api: Api, form: str) -> None:
    await api.create("alice", "aa")
    epochs = [await epoch(api)]
    for _ in range(3):
        answer = await (flush(api, key=ID, spread=5) if form == "header" else flush(api, id=ID, spread=5))
        assert (answer.json(), answer.headers["Location"]) == ({"spread": 5}, f"/v1/jobs/{ID}")
        epochs.append(await epoch(api))

    assert epochs[0] != epochs[1] == epochs[2] == epochs[3]
    assert (await flush(api, key=ID)).json() == {"spread": 5}
    await flush(api)
    assert await epoch(api) != epochs[1]


async def test_job_of_a_flush_is_listed(api: Api) -> None:
    await flush(api, id=ID, spread=5)
    location = (await flush(api)).headers["Location"]

    job = (await api.call("GET", f"/v1/jobs/{ID}")).json()
    partitions = api.store.agenda.partition_count
    listed = (await api.call("GET", "/v1/jobs")).json()["jobs"]

    assert job == {
        "id": ID,
        "kind": "flush",
        "state": "done",
        "params": {"spread": 5},
        "done": partitions,
        "total": partitions,
        "created": NOW_S,
        "changed": NOW_S,
        "reason": None,
        "result": None,
    }
    assert [f"/v1/jobs/{each['id']}" for each in listed] == [location, f"/v1/jobs/{ID}"]


async def test_jobs_are_listed_in_pages(api: Api) -> None:
    for name in "abcde":
        await api.store.jobs.create(name, "flush", {}, NOW_US)

    found, path = [], "/v1/jobs?limit=2"
    while path:
        answer = await api.call("GET", path)
        found.append([job["id"] for job in answer.json()["jobs"]])
        path = answer.links.get("next", {}).get("url", "")

    assert found == [["e", "d"], ["c", "b"], ["a"]]
    assert code_of(await api.call("GET", "/v1/jobs?before=x")) == (422, "invalid")


async def test_id_of_another_flush_is_refused(api: Api) -> None:
    await flush(api, id=ID, spread=5)

    assert code_of(await flush(api, 409, id=ID, spread=6)) == (409, "id_reused")
    assert code_of(await flush(api, 422, key="other", id=ID)) == (422, "invalid")
    assert code_of(await flush(api, 422, id="no/name"))[0] == 422
    await api.store.jobs.create("export", "export", {}, NOW_US)
    assert code_of(await flush(api, 409, id="export")) == (409, "id_reused")


async def test_cancelled_job_is_over(api: Api) -> None:
    await api.store.jobs.create("later", "unknown-kind", {}, NOW_US)

    answer = await api.call("DELETE", "/v1/jobs/later")

    assert (answer.status_code, answer.json()["state"]) == (200, "cancelled")
    stored = await api.store.jobs.get("later")
    assert stored is not None and stored.state is JobState.CANCELLED
    assert (await api.call("DELETE", "/v1/jobs/later")).json() == answer.json()


async def test_unknown_job_is_not_found(api: Api) -> None:
    for method in ("GET", "DELETE"):
        assert code_of(await api.call(method, "/v1/jobs/nothing")) == (404, "not_found")


async def test_audit_is_started_once(api: Api) -> None:
    async def start(status: int = 202, **body: Any) -> Any:
        answer = await api.call("POST", "/v1/jobs", json=body)
        assert answer.status_code == status, answer.text
        return answer

    answer = await start(kind="audit", id=ID)
    assert answer.headers["Location"] == f"/v1/jobs/{ID}"
    assert (answer.json()["kind"], answer.json()["state"]) == ("audit", "waiting")
    assert (await start(kind="audit", id=ID)).json() == answer.json()
    assert len((await api.store.jobs.page(None, 9)).jobs) == 1
    assert (await start(kind="audit")).json()["id"] != ID

    await start(422, kind="flush")
    await api.store.jobs.create("other", "flush", {"spread": 1}, NOW_US)
    assert code_of(await start(409, kind="audit", id="other")) == (409, "id_reused")
