"""Partitions: their tags, and stores with each number of them."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from redis.crc import key_slot

from gregor.config.values import PARTITION_COUNTS, TEST_PARTITIONS
from gregor.core.items.sync import View
from gregor.core.limits import Limits
from gregor.store.redis.keys import Keys
from gregor.store.redis.partitions import Partitions, partitions_of
from gregor.store.redis.store import RedisStore, open_store
from tests.support.builders import NOW_US, creating
from tests.support.resets import reset_all_users
from tests.unit.store.redis_setup import RedisSetup

UIDS = tuple(f"user-{n}" for n in range(300))


@st.composite
def placed(draw: st.DrawFn) -> tuple[int, int]:
    """Return a number of partitions, and one of the partitions."""
    count = draw(st.sampled_from(PARTITION_COUNTS))
    return count, draw(st.integers(0, count - 1))


@settings(deadline=None)  # the first example of a count searches its tags
@given(placed())
def test_partition_tags_hash_to_their_slots(place: tuple[int, int]) -> None:
    """Every range of slots has its share of the partitions."""
    count, partition = place
    tag = partitions_of(count).tag(partition)

    assert key_slot(f"gregor:{{{tag}}}:due".encode()) == partition * 16_384 // count


def test_tags_of_1024_partitions_never_change() -> None:
    """They are in the keys of deployments: this is the hash of the tags of the first release."""
    tags = " ".join(partitions_of(1024).tag(partition) for partition in range(1024))

    assert (
        hashlib.sha256(tags.encode()).hexdigest() == "9ab0658b7463cd86a011767e462d65e83c2c33135f984ff892ad466b63dd6d70"
    )


@settings(max_examples=20, deadline=None)  # each example searches tags again
@given(placed(), st.permutations(range(8)))
def test_tags_do_not_depend_on_search_order(place: tuple[int, int], order: list[int]) -> None:
    count, first = place
    wanted = [(first + step * 977) % count for step in order]
    fresh = Partitions(count)

    assert [fresh.tag(each) for each in wanted] == [partitions_of(count).tag(each) for each in wanted]


def test_one_tag_does_not_search_all() -> None:
    partitions = Partitions(16384)

    partitions.tag(partitions.of_user("alice"))

    assert len(partitions._tags) < 16384


@pytest.mark.parametrize("count", PARTITION_COUNTS)
async def test_each_partition_count_serves_users(setup: RedisSetup, count: int) -> None:
    store = RedisStore(setup.connection, Limits(), setup.keys.namespace, partitions=count, allow_oom=setup.allow_oom)
    await store.prepare()
    for uid in UIDS:
        await store.users.commit(uid, creating("a", remind_at=["+10"]))

    times = await store.agenda.next_due_times()
    due = [partition for partition, at_us in times.items() if at_us is not None]
    claimed = [await store.agenda.claim(partition, NOW_US + 60_000_000, NOW_US, 300) for partition in due]
    before = await store.users.state("user-7", View(), NOW_US)
    await reset_all_users(store, 0)

    assert len(times) == count
    assert sorted(uid for uids in claimed for uid in uids) == sorted(UIDS)
    assert (await store.dead_letters.page(None, 10, None, NOW_US)).letters == ()
    assert (await store.users.state("user-7", View(), NOW_US)).epoch != before.epoch


async def test_other_partition_count_is_refused(redis_server: str, real_setup: RedisSetup) -> None:
    """Users would be searched in the wrong partition."""
    namespace = real_setup.keys.namespace
    await (await open_store(redis_server, Limits(), namespace, partitions=4096)).close()

    with pytest.raises(
        ValueError, match="has 4096 partitions, and GREGOR_PARTITIONS is 1024; set GREGOR_PARTITIONS=4096"
    ):
        await open_store(redis_server, Limits(), namespace)

    await (await open_store(redis_server, Limits(), namespace, partitions=4096)).close()


async def test_deployment_of_1024_starts_untouched(redis_server: str, real_setup: RedisSetup) -> None:
    """The default is the number that every deployment had before there was a setting."""
    keys = real_setup.keys
    await real_setup.connection.call("SET", keys.partitions, 1024)
    await real_setup.connection.call("HSET", keys.formats, "written", 1, "release", "0.1.0")

    await (await open_store(redis_server, Limits(), keys.namespace)).close()

    assert Keys("gregor").of_user("alice").state == "gregor:{6c58}:h:alice"


@pytest.mark.parametrize("partition", [-1, 64])
def test_partition_out_of_range_has_no_tag(partition: int) -> None:
    with pytest.raises(IndexError):
        Partitions(64).tag(partition)


def test_unknown_partition_count_is_refused() -> None:
    with pytest.raises(ValueError, match=f"choose one of {TEST_PARTITIONS}, 1024"):
        Partitions(1000)
