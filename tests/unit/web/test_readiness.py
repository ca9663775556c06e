"""Readiness on a cluster: one shard that answers is enough, and the document says which ones are away."""

from __future__ import annotations

from pathlib import Path

import pytest

from gregor.core.limits import Limits
from gregor.core.messages.model import Commit
from gregor.metrics.process import Metrics
from gregor.reference.store import MemoryStore
from gregor.store.contract.store import Unavailable
from gregor.store.formats import ProcessFormats
from gregor.store.redis.store import open_store
from gregor.web.readiness import FAILURES, Readiness
from tests.support.builders import NOW_US, SEED
from tests.support.servers import BINARIES, running_server
from tests.support.wait import wait_until


class ShardedStore(MemoryStore):
    """A store on three shards; a test takes some away."""

    def __init__(self) -> None:
        super().__init__(Limits())
        self.shards = {"a:1": True, "b:1": True, "c:1": True}

    async def ping(self) -> dict[str, float | None]:
        if not any(self.shards.values()):
            raise Unavailable("no shard answers")
        return {name: 0.002 if answers else None for name, answers in self.shards.items()}


async def test_one_shard_away_is_degraded_and_ready() -> None:
    store, metrics = ShardedStore(), Metrics()
    readiness = Readiness(store, metrics)
    store.shards["b:1"] = False

    for _ in range(FAILURES):
        await readiness.check()

    assert readiness.document() == {
        "ready": True,
        "checks": {"redis": "ok", "probe": "ok", "draining": False, "shards": ["ok", "away", "ok"]},
    }
    assert (metrics.degraded._value.get(), metrics.shards_reachable._value.get()) == (1, 2)
    store.shards["b:1"] = True
    await readiness.check()
    assert readiness.document()["checks"]["shards"] == ["ok"] * 3
    assert (metrics.degraded._value.get(), metrics.shards_reachable._value.get()) == (0, 3)


async def test_all_shards_away_is_not_ready() -> None:
    store, metrics = ShardedStore(), Metrics()
    readiness = Readiness(store, metrics)
    await readiness.check()
    store.shards = dict.fromkeys(store.shards, False)

    for _ in range(FAILURES):
        await readiness.check()

    assert not readiness.is_ready and readiness.document()["checks"]["shards"] == ["away"] * 3
    assert (metrics.degraded._value.get(), metrics.shards_reachable._value.get()) == (1, 0)


async def test_unread_data_is_degraded_and_ready() -> None:
    metrics, is_read = Metrics(), False
    readiness = Readiness(ShardedStore(), metrics)
    readiness.expect("categories", lambda: is_read)
    readiness.expect("webhooks", lambda: True)
    await readiness.check()

    assert readiness.is_ready and readiness.document()["checks"]["unread"] == ["categories"]
    assert metrics.degraded._value.get() == 1
    is_read = True
    await readiness.check()
    assert "unread" not in readiness.document()["checks"] and metrics.degraded._value.get() == 0


async def test_process_with_an_unfulfilled_condition_is_not_ready() -> None:
    readiness = Readiness(MemoryStore(Limits()), Metrics())
    await readiness.check()
    is_right = False
    readiness.require("clock", lambda: is_right)

    document = readiness.document()
    assert not document["ready"] and document["checks"]["clock"] == "off"
    is_right = True
    assert readiness.is_ready and readiness.document()["checks"]["clock"] == "ok"


async def test_single_server_lists_no_shards() -> None:
    readiness = Readiness(MemoryStore(Limits()), Metrics())
    await readiness.check()

    assert readiness.document() == {"ready": True, "checks": {"redis": "ok", "probe": "ok", "draining": False}}


async def test_formats_of_the_process_are_gauges() -> None:
    metrics, store = Metrics(), MemoryStore(Limits())
    store.deployment.own = ProcessFormats("h:1", "ingest", "0.2.0", (1, 2), 1)

    await Readiness(store, metrics).check()

    found = {use: metrics.formats.labels(use)._value.get() for use in ("reads_from", "reads_to", "writes")}
    assert found == {"reads_from": 1, "reads_to": 2, "writes": 1}


@pytest.mark.redis
async def test_demoted_server_is_not_ready(tmp_path: Path) -> None:
    with running_server(BINARIES[0], tmp_path) as primary, running_server(BINARIES[0], tmp_path) as server:
        store = await open_store(server.url, Limits())
        readiness = Readiness(store, Metrics())
        await readiness.check()
        assert readiness.is_ready

        server.say("REPLICAOF", "127.0.0.1", str(primary.port))
        with pytest.raises(Unavailable, match="READONLY"):
            await store.users.commit("alice", Commit(NOW_US, SEED, remind=("a", 0)))

        async def unready() -> bool:
            await readiness.check()
            return not readiness.is_ready

        await wait_until(unready, "the process is not ready", timeout_s=20)
        server.say("REPLICAOF", "NO", "ONE")
        await wait_until(lambda: _is_ready(readiness), "the process is ready again", timeout_s=20)
        await store.close()


async def _is_ready(readiness: Readiness) -> bool:
    await readiness.check()
    return readiness.is_ready
