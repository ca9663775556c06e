"""``Gregor-Durability: replicated``: the receipt waits for replicas, and says so when they do not confirm."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from gregor.reference.store import MemoryStore
from gregor.reference.store.store import MemoryReplication
from tests.support.api import NDJSON, Api, code_of

PATH = "/v1/users/alice/messages"
MESSAGE: dict[str, Any] = {"system": "gregor", "body": {"create": {"aa": {"category": "user.joined"}}}}
REPLICATED = {"Gregor-Durability": "replicated"}


@pytest.fixture
async def replicas(api: Api) -> AsyncIterator[MemoryReplication]:
    """Give the store one replica, which confirms."""
    assert isinstance(api.store, MemoryStore)
    api.store.replication.replicas = api.store.replication.confirming = 1
    yield api.store.replication


async def items(api: Api, uid: str = "alice") -> list[str]:
    return list((await api.call("GET", f"/v1/users/{uid}/state")).json()["items"])


async def test_receipt_says_replicated(api: Api, replicas: MemoryReplication) -> None:
    answer = await api.call("POST", PATH, json=MESSAGE, headers=REPLICATED)

    assert answer.status_code == 200
    assert (answer.json()["durability"], answer.json()["replicas"]) == ("replicated", 1)
    assert answer.json()["created"] == ["aa"]


async def test_unconfirmed_message_is_committed(api: Api, replicas: MemoryReplication) -> None:
    replicas.confirming = 0
    refused = await api.call("POST", PATH, json=MESSAGE, headers=REPLICATED)
    assert code_of(refused) == (503, "not_replicated")
    assert refused.headers["retry-after"] == "1"
    assert refused.json()["receipt"]["created"] == ["aa"]
    assert refused.json()["replicas"] == 0
    assert await items(api) == ["aa"]

    replicas.confirming = 1
    repeated = (await api.call("POST", PATH, json=MESSAGE, headers=REPLICATED)).json()

    assert (repeated["durability"], repeated["unchanged"]) == ("replicated", True)
    assert replicas.waits == 2
    exposition = (await api.call("GET", "/metrics", "")).text
    assert 'gregor_replications_total{outcome="not_replicated"} 1.0' in exposition
    assert 'gregor_replications_total{outcome="confirmed"} 1.0' in exposition


async def test_store_without_replicas_writes_nothing(api: Api) -> None:
    answer = await api.call("POST", PATH, json=MESSAGE, headers=REPLICATED)

    assert code_of(answer) == (422, "no_replicas")
    assert await items(api) == []


async def test_unknown_durability_lists_the_values(api: Api) -> None:
    answer = await api.call("POST", PATH, json=MESSAGE, headers={"Gregor-Durability": "forever"})

    assert code_of(answer) == (422, "invalid")
    assert "'forever'; send default or replicated" in answer.json()["detail"]
    assert await items(api) == []


@pytest.mark.parametrize("headers", [{}, {"Gregor-Durability": "default"}])
async def test_default_waits_for_nothing(api: Api, replicas: MemoryReplication, headers: dict[str, str]) -> None:
    answer = await api.call("POST", PATH, json=MESSAGE, headers=headers)

    assert "durability" not in answer.json()
    assert replicas.waits == 0


async def test_delayed_message_waits_for_replicas(api: Api, replicas: MemoryReplication) -> None:
    later = {**MESSAGE, "not_before": api.clock.now_us() / 1e6 + 60}

    answer = (await api.call("POST", PATH, json=later, headers=REPLICATED)).json()

    assert (answer["durability"], answer["replicas"]) == ("replicated", 1)


async def test_dry_run_waits_for_nothing(api: Api, replicas: MemoryReplication) -> None:
    answer = await api.call("POST", f"{PATH}?dry_run=true", json=MESSAGE, headers=REPLICATED)

    assert answer.json()["dry_run"] is True
    assert replicas.waits == 0


async def test_unconfirmed_reset_is_audited(api: Api, replicas: MemoryReplication) -> None:
    replicas.confirming = 0
    reset = {"system": "gregor", "body": {"flush": True}}

    await api.call("POST", PATH, json=reset, headers=REPLICATED)
    await api.call("POST", "/v1/messages", json=[{"uid": "bob", **reset}], headers=REPLICATED)

    events = (await api.call("GET", "/v1/audit")).json()["entries"]
    assert [event["act"] for event in events].count("flushUser") == 2


async def test_flush_endpoint_refuses_the_header(api: Api) -> None:
    assert code_of(await api.call("POST", "/v1/users/alice/flush", headers=REPLICATED)) == (422, "invalid")


# ---- batches


def line(uid: str) -> dict[str, Any]:
    return {"uid": uid, **MESSAGE}


@pytest.mark.parametrize("kind", ["array", "ndjson"])
async def test_batch_waits_once_for_all_lines(api: Api, replicas: MemoryReplication, kind: str) -> None:
    documents = [line("alice"), {"uid": "bob", "system": "gregor", "body": 1}, line("carol")]
    body = json.dumps(documents) if kind == "array" else "".join(f"{json.dumps(each)}\n" for each in documents)
    media = {"Content-Type": "application/json"} if kind == "array" else NDJSON

    answer = await api.call("POST", "/v1/messages", content=body, headers={**REPLICATED, **media})

    entries = answer.json() if kind == "array" else [json.loads(text) for text in answer.text.splitlines()]
    assert [entry.get("receipt", {}).get("durability") for entry in entries] == ["replicated", None, "replicated"]
    assert entries[1]["problem"]["code"] == "invalid"
    assert replicas.waits == 1


async def test_unconfirmed_lines_keep_their_receipts(api: Api, replicas: MemoryReplication) -> None:
    replicas.confirming = 0

    [entry] = (await api.call("POST", "/v1/messages", json=[line("alice")], headers=REPLICATED)).json()

    assert entry["problem"]["code"] == "not_replicated"
    assert entry["problem"]["receipt"]["created"] == ["aa"]
    assert entry["problem"]["retry_after_ms"] == 1000
    assert await items(api) == ["aa"]


async def test_batch_without_replicas_writes_nothing(api: Api) -> None:
    answer = await api.call("POST", "/v1/messages", json=[line("alice")], headers=REPLICATED)

    assert code_of(answer) == (422, "no_replicas")
    assert await items(api) == []
