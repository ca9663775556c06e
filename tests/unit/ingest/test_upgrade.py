"""The upgrade endpoints: what the processes read and write, and the finish, which is refused or done once."""

from __future__ import annotations

from typing import Any

import pytest

from gregor import __version__
from gregor.reference.store.store import MemoryStore
from gregor.store.formats import ProcessFormats
from tests.support.api import Api, code_of

OLD = ProcessFormats("h:1:old", "gateway", "0.1.0", (1, 1), 1)
NEW = ProcessFormats("h:2:new", "scheduler", "0.3.0", (1, 2), 1)


def with_processes(api: Api, *running: ProcessFormats) -> Any:
    store = api.store
    assert isinstance(store, MemoryStore)
    store.deployment.processes = list(running)
    return store.deployment


async def test_upgrade_shows_the_formats_of_each_process(api: Api) -> None:
    with_processes(api, OLD, NEW)

    found = (await api.call("GET", "/v1/upgrade")).json()

    assert {name: found[name] for name in ("state", "written", "newest", "oldest", "release")} == {
        "state": "blocked",
        "written": 1,
        "newest": 2,
        "oldest": 1,
        "release": __version__,
    }
    assert [(each["service"], each["reads"], each["writes"], each["blocks"]) for each in found["processes"]] == [
        ("gateway", [1, 1], 1, True),
        ("ingest", [1, 1], 1, True),
        ("scheduler", [1, 2], 1, False),
    ]


async def test_blocked_finish_names_the_processes(api: Api) -> None:
    deployment = with_processes(api, OLD, NEW)

    answer = await api.call("POST", "/v1/upgrade/finish")

    assert code_of(answer) == (409, "upgrade_blocked")
    assert "gateway h:1:old (gregor 0.1.0)" in answer.json()["detail"]
    assert deployment.written.number == 1


async def test_finish_is_repeatable_and_audited(api: Api) -> None:
    deployment = with_processes(api, NEW)
    deployment.own = None

    for _ in range(2):
        answer = await api.call("POST", "/v1/upgrade/finish")
        assert answer.json()["state"] == "finished"
        assert answer.headers["location"] == "/v1/jobs/rewrite-2"

    assert deployment.written.number == 2
    events = (await api.call("GET", "/v1/audit")).json()["entries"]
    assert [event["act"] for event in events] == ["finishUpgrade", "finishUpgrade"]


@pytest.mark.parametrize(("method", "path"), [("GET", "/v1/upgrade"), ("POST", "/v1/upgrade/finish")])
async def test_upgrade_needs_the_scope_admin(api: Api, method: str, path: str) -> None:
    key = await api.make_key("ingest", "read", "devices", "deliveries", "categories")

    assert code_of(await api.call(method, path, token=key)) == (403, "forbidden")


async def test_finish_starts_a_failed_rewriting_again(api: Api) -> None:
    deployment = with_processes(api, NEW)
    deployment.own = None
    await api.call("POST", "/v1/upgrade/finish")
    await api.call("DELETE", "/v1/jobs/rewrite-2")

    location = (await api.call("POST", "/v1/upgrade/finish")).headers["location"]

    assert location.startswith("/v1/jobs/rewrite-2-")
    assert (await api.call("GET", location)).json()["state"] in ("waiting", "running", "done")
    await deployment.raise_oldest_format(2)
    assert "location" not in (await api.call("POST", "/v1/upgrade/finish")).headers
