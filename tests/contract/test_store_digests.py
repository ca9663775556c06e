"""The check of stored digests finds nothing wrong in any state that messages can cause, and changes nothing."""

from __future__ import annotations

from gregor.core.messages.model import Sender
from gregor.store.contract.store import Store
from tests.support.builders import BACKEND, NOW_US, SECOND_US, creating, dismissing, ids_of


async def test_digests_agree_after_traffic(store: Store) -> None:
    phone = Sender("phone")
    await store.devices.ensure_device("alice", "phone", NOW_US)
    await store.devices.ensure_device("alice", "tv", NOW_US)
    await store.users.commit("alice", creating("a", "b", expires="+60"))
    await store.users.commit("alice", creating("own", for_device="tv"))
    await store.users.commit("alice", creating("each", "other", for_device="*"))
    await store.users.commit("alice", dismissing("each", sender=phone))
    await store.users.commit("alice", dismissing("b", "unknown"))

    assert await store.users.wrong_digests("alice") == []
    assert await store.users.wrong_digests("nobody") == []

    await store.devices.forget_device("alice", "phone", NOW_US, b"abc")
    await store.users.commit("alice", dismissing("own", "other"))
    assert await store.users.wrong_digests("alice") == []


async def test_check_of_digests_leaves_due_work(store: Store) -> None:
    await store.users.commit("alice", creating("a", expires="+60"))
    await store.users.reset_partitions(1, range(store.agenda.partition_count), 0)
    [before] = await store.users.heads(["alice"])

    assert await store.users.wrong_digests("alice") == []

    assert await store.users.heads(["alice"]) == [before]
    assert ids_of(await store.users.state("alice", BACKEND, NOW_US + 61 * SECOND_US)) == []
    assert await store.users.wrong_digests("alice") == []
