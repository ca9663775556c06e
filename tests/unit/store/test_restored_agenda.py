"""A server that restarts from an older snapshot, as after an asynchronous failover, keeps the due work it had."""

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
from tests.support.servers import BINARIES, running_server
from tests.support.wait import wait_until

pytestmark = pytest.mark.redis


@pytest.mark.parametrize("binary", BINARIES)
@pytest.mark.parametrize("has_claim", [True, False])
async def test_work_with_a_lost_plan_is_due_again(tmp_path: Path, binary: str, has_claim: bool) -> None:
    """The client keeps a command for two seconds while it has no connection."""
    push = Intent("alice", "a", IntentKind.ITEM, FRAME, "phone", 0, 1, at(10))
    with running_server(binary, tmp_path) as server:
        store = await open_store(server.url, Limits())
        await store.users.commit("alice", timed("a", ItemTimer(ItemTimerKind.PUSH, at(10))))
        if not has_claim:
            server.say("SAVE")
        await store.agenda.claim(ALICE, at(10), at(40), 5)
        mark, work = store.agenda.server_of("alice"), await work_of(store, WorkKind.PUSH)
        if has_claim:
            server.say("SAVE")
        await store.ledger.plan([push], DeliveryState.PLANNED, None, at(10))

        server.kill()
        await wait_until(lambda: store.agenda.server_of("alice") != mark, "the client has noticed it")
        completing = asyncio.create_task(store.agenda.complete("alice", at(40), [CompletedWork(work)], server=mark))
        await asyncio.to_thread(server.start)
        await completing

        assert await entries(store) == [(WorkKind.PUSH, "a", 10)]
        assert await store.agenda.claim(ALICE, at(11), at(41), 5) == ["alice"]
        planned = await store.ledger.plan([push], DeliveryState.PLANNED, None, at(11))
        assert len(planned.new) == 1, "the queued intent found no record, so it was not sent"
        await store.close()
