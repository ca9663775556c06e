"""After an asynchronous failover, or a restart from an older snapshot, a server keeps the due work that it had."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from gregor.core.limits import Limits
from gregor.core.messages.model import ItemTimer, ItemTimerKind
from gregor.core.notify.intents import FRAME, Intent, IntentKind
from gregor.core.notify.ledger import DeliveryState
from gregor.store.contract.agenda import CompletedWork, WorkKind
from gregor.store.redis.store import open_store
from tests.support.agendas import ALICE, at, entries, timed, work_of
from tests.support.redis_cluster import running_redis_cluster, slot_of
from tests.support.servers import BINARIES, running_server
from tests.support.wait import wait_until

pytestmark = pytest.mark.redis

PUSH = Intent("alice", "a", IntentKind.ITEM, FRAME, "phone", 0, 1, at(10))


@pytest.mark.parametrize("binary", BINARIES)
@pytest.mark.parametrize("has_claim", [True, False])
async def test_work_with_a_lost_plan_is_due_again(tmp_path: Path, binary: str, has_claim: bool) -> None:
    """The client keeps a command for two seconds while it has no connection."""
    with running_server(binary, tmp_path) as server:
        store = await open_store(server.url, Limits())
        await store.users.commit("alice", timed("a", ItemTimer(ItemTimerKind.PUSH, at(10))))
        if not has_claim:
            server.say("SAVE")
        await store.agenda.claim(ALICE, at(10), at(40), 5)
        mark, work = store.agenda.server_of("alice"), await work_of(store, WorkKind.PUSH)
        if has_claim:
            server.say("SAVE")
        await store.ledger.plan([PUSH], DeliveryState.PLANNED, None, at(10))

        server.kill()
        await wait_until(lambda: store.agenda.server_of("alice") != mark, "the client has noticed it")
        completing = asyncio.create_task(store.agenda.complete("alice", at(40), [CompletedWork(work)], server=mark))
        await asyncio.to_thread(server.start)
        await completing

        assert await entries(store) == [(WorkKind.PUSH, "a", 10)]
        assert await store.agenda.claim(ALICE, at(11), at(41), 5) == ["alice"]
        planned = await store.ledger.plan([PUSH], DeliveryState.PLANNED, None, at(11))
        assert len(planned.new) == 1, "the queued intent found no record, so it was not sent"
        await store.close()


async def test_work_is_not_completed_on_a_promoted_replica(tmp_path: Path) -> None:
    """The deposed primary keeps its connections, and answers with the address of the promoted replica."""
    with running_redis_cluster(tmp_path) as cluster:
        store = await open_store(cluster.url, Limits())
        await store.users.commit("alice", timed("a", ItemTimer(ItemTimerKind.PUSH, at(10))))
        await store.agenda.claim(ALICE, at(10), at(40), 5)
        primary = cluster.primary_of(slot_of(store.keys.of_user("alice").agenda))
        replica = cluster.replica_of(primary)
        await wait_until(
            lambda: (
                primary.info("replication")["master_repl_offset"] == replica.info("replication")["slave_repl_offset"]
            ),
            "the replica has the claim",
        )
        replica.ask("CONFIG", "SET", "masterauth", "wrong")
        primary.ask("CLIENT", "KILL", "TYPE", "replica")
        mark, work = store.agenda.server_of("alice"), await work_of(store, WorkKind.PUSH)
        await store.ledger.plan([PUSH], DeliveryState.PLANNED, None, at(10))
        replica.ask("CLUSTER", "FAILOVER", "TAKEOVER")
        while primary.role() != "slave":  # without a pause: the client must not hear of the failover before
            pass

        await store.agenda.complete("alice", at(40), [CompletedWork(work)], server=mark)

        assert await entries(store) == [(WorkKind.PUSH, "a", 10)]
        assert len((await store.ledger.plan([PUSH], DeliveryState.PLANNED, None, at(11))).new) == 1
        await store.close()
