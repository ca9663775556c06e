"""The check of stored digests finds each planted fault: a wrong digest, a wrong or lost item, a wrong device view."""

from __future__ import annotations

import pytest

from gregor.core.messages.model import Sender
from gregor.store.contract.store import UnreadableValue
from gregor.store.redis.store import RedisStore
from tests.support.builders import creating, dismissing
from tests.unit.store.redis_setup import NOW_US, RedisSetup, make_store

EVERY_VIEW = ["", "phone"]


async def healthy_store(setup: RedisSetup) -> RedisStore:
    store = make_store(setup)
    await store.devices.ensure_device("alice", "phone", NOW_US)
    await store.users.commit("alice", creating("a", "b", body="first"))
    await store.users.commit("alice", creating("each", for_device="*"))
    await store.users.commit("alice", dismissing("each", sender=Sender("phone")))
    assert await store.users.wrong_digests("alice") == []
    return store


async def stored(setup: RedisSetup, field: str) -> bytes:
    value: bytes = await setup.connection.call("HGET", setup.keys.of_user("alice").state, field)
    return value


async def plant(setup: RedisSetup, field: str, value: bytes) -> None:
    await setup.connection.call("HSET", setup.keys.of_user("alice").state, field, value)


async def test_wrong_shared_digest_is_found(setup: RedisSetup) -> None:
    store = await healthy_store(setup)
    head = await stored(setup, ".h")
    await plant(setup, ".h", head[:-1] + bytes([head[-1] ^ 1]))

    assert await store.users.wrong_digests("alice") == EVERY_VIEW


async def test_wrong_digest_of_a_device_is_found(setup: RedisSetup) -> None:
    store = await healthy_store(setup)
    lanes = await stored(setup, ".d:phone")
    await plant(setup, ".d:phone", lanes[:-1] + bytes([lanes[-1] ^ 1]))

    assert await store.users.wrong_digests("alice") == ["phone"]


async def test_changed_item_is_found(setup: RedisSetup) -> None:
    store = await healthy_store(setup)
    record = await stored(setup, "a")
    assert b"first" in record
    await plant(setup, "a", record.replace(b"first", b"worst"))

    assert await store.users.wrong_digests("alice") == EVERY_VIEW


async def test_lost_item_is_found(setup: RedisSetup) -> None:
    store = await healthy_store(setup)
    await setup.connection.call("HDEL", setup.keys.of_user("alice").state, "a")

    assert await store.users.wrong_digests("alice") == EVERY_VIEW


async def test_lost_head_is_found(setup: RedisSetup) -> None:
    store = await healthy_store(setup)
    await setup.connection.call("HDEL", setup.keys.of_user("alice").state, ".h")

    assert await store.users.wrong_digests("alice") == EVERY_VIEW


async def test_record_of_a_later_format_is_reported(setup: RedisSetup) -> None:
    store = await healthy_store(setup)
    await plant(setup, "a", b"?" + (await stored(setup, "a"))[1:])

    with pytest.raises(UnreadableValue):
        await store.users.wrong_digests("alice")
