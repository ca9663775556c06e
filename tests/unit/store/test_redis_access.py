"""Service keys, tickets and rate limits in Redis: no stored secrets, tickets redeemed once, exact rates."""

import asyncio
import hashlib
import random

import pytest

from gregor.clock import SystemClock
from gregor.core import rate_limit as rates
from gregor.core.limits import DAY_US, SECOND_US, Limits
from gregor.store import service_keys
from gregor.store.contract.access import ServiceKey, TerminalClose, Ticket, ticket_name
from gregor.store.contract.store import Unavailable
from gregor.store.redis.access import RedisAccess
from tests.unit.store.redis_setup import RedisSetup

NOW_US = 1_800_000_000 * SECOND_US
TICKET = Ticket("alice", "phone", False, ("user",), None, {"exp": 1_800_003_600, "cats": ["user"]})


@pytest.fixture
def access(setup: RedisSetup) -> RedisAccess:
    """Return the access part of a store on each kind of server."""
    return RedisAccess(setup.connection, setup.keys, Limits(), allow_oom=setup.allow_oom)


def secret_of(text: str) -> str:
    """Return the secret in a key's text."""
    parsed = service_keys.parse(text)
    assert parsed is not None
    return parsed[1]


async def test_key_round_trips(access: RedisAccess) -> None:
    made, text = await access.create_key(["ingest", "read"], ["user", "user.joined", "sys"], 2.5, "billing", NOW_US)

    assert await access.key(made.id) == made
    assert made == ServiceKey(
        id=made.id,
        scopes=frozenset(["ingest", "read"]),
        prefixes=("sys", "user"),
        rate=2.5,
        hashes=((hashlib.sha256(secret_of(text).encode()).hexdigest(), None),),
        created_us=NOW_US,
        name="billing",
    )


async def test_key_without_limits_round_trips(access: RedisAccess) -> None:
    made, _ = await access.create_key(["admin"])

    found = await access.key(made.id)
    assert found is not None
    assert (found.prefixes, found.rate, found.name) == (None, None, None)


async def test_keys_are_listed_by_id_until_deleted(access: RedisAccess) -> None:
    made = [(await access.create_key(["ingest"]))[0] for _ in range(5)]
    made.sort(key=lambda key: key.id)

    assert await access.keys() == made
    assert await access.delete_key(made[2].id)
    assert not await access.delete_key(made[2].id)
    assert await access.key(made[2].id) is None
    assert await access.keys() == made[:2] + made[3:]


async def test_rotation_keeps_the_old_secret_for_a_while(access: RedisAccess) -> None:
    made, first = await access.create_key(["ingest"], now_us=NOW_US)

    second = await access.rotate_key(made.id, NOW_US, DAY_US)

    key = await access.key(made.id)
    assert second is not None and key is not None
    assert service_keys.is_valid(key, secret_of(second), NOW_US + 2 * DAY_US)
    assert service_keys.is_valid(key, secret_of(first), NOW_US + DAY_US - 1)
    assert not service_keys.is_valid(key, secret_of(first), NOW_US + DAY_US)


async def test_concurrent_rotations_all_return_valid_secrets(access: RedisAccess) -> None:
    made, _ = await access.create_key(["ingest"])

    texts = await asyncio.gather(*(access.rotate_key(made.id, NOW_US, DAY_US) for _ in range(2)))

    key = await access.key(made.id)
    assert key is not None
    assert all(text and service_keys.is_valid(key, secret_of(text), NOW_US) for text in texts)


async def test_rotating_an_unknown_key_returns_none(access: RedisAccess) -> None:
    assert await access.rotate_key("none", NOW_US, DAY_US) is None


async def test_stored_data_contains_no_secret_or_ticket(access: RedisAccess, setup: RedisSetup) -> None:
    _, text = await access.create_key(["ingest"])
    ticket = await access.create_ticket(TICKET, NOW_US, 30 * SECOND_US)

    found = await setup.connection.call("KEYS", f"{setup.keys.namespace}:*")
    values = await setup.connection.call("HVALS", setup.keys.service_keys)
    assert found and values
    assert not any(secret_of(text).encode() in value for value in values)
    assert not any(ticket.encode() in key for key in found)


async def test_ticket_is_redeemed_once(access: RedisAccess) -> None:
    text = await access.create_ticket(TICKET, NOW_US, 30 * SECOND_US)

    assert await access.redeem_ticket(text, NOW_US + 29 * SECOND_US) == TICKET
    assert await access.redeem_ticket(text, NOW_US + 29 * SECOND_US) is None


async def test_concurrent_redeems_of_a_ticket_succeed_once(access: RedisAccess) -> None:
    text = await access.create_ticket(TICKET, NOW_US, 30 * SECOND_US)

    spent = await asyncio.gather(*(access.redeem_ticket(text, NOW_US) for _ in range(20)))

    assert [ticket for ticket in spent if ticket] == [TICKET]


async def test_expired_ticket_is_refused_before_its_ttl(access: RedisAccess) -> None:
    text = await access.create_ticket(TICKET, NOW_US, 30 * SECOND_US)

    assert await access.redeem_ticket(text, NOW_US + 30 * SECOND_US) is None
    assert await access.redeem_ticket("never made", NOW_US) is None


async def test_ticket_key_has_a_ttl(access: RedisAccess, setup: RedisSetup) -> None:
    text = await access.create_ticket(TICKET, NOW_US, 30 * SECOND_US)

    assert 0 < await setup.ttl_ms(setup.keys.ticket(ticket_name(text))) <= 30_000


async def test_bucket_allows_burst_then_rate(access: RedisAccess) -> None:
    taken = [await access.take("b", 10, 50, 1, NOW_US) for _ in range(52)]

    assert taken[:50] == [0.0] * 50
    assert taken[50:] == [0.1, 0.1]
    assert await access.take("b", 10, 50, 1, NOW_US + 99_999) == pytest.approx(0.000001)
    assert await access.take("b", 10, 50, 1, NOW_US + 100_000) == 0.0
    assert await access.take("b", 10, 50, 1, NOW_US + 100_000) == 0.1


async def test_take_is_all_or_nothing(access: RedisAccess) -> None:
    assert await access.take("b", 10, 50, 45, NOW_US) == 0.0
    assert await access.take("b", 10, 50, 6, NOW_US) == 0.1
    assert await access.take("b", 10, 50, 5, NOW_US) == 0.0


async def test_buckets_are_independent(access: RedisAccess) -> None:
    assert await access.take("device/alice/phone", 1, 1, 1, NOW_US) == 0.0
    assert await access.take("device/alice/desk", 1, 1, 1, NOW_US) == 0.0
    assert await access.take("device/alice/phone", 1, 1, 1, NOW_US) == 1.0


async def test_concurrent_takes_never_exceed_the_burst(access: RedisAccess) -> None:
    waits = await asyncio.gather(*(access.take("b", 10, 7, 1, NOW_US) for _ in range(30)))

    assert waits.count(0.0) == 7


@pytest.mark.parametrize("rate", [0.3, 1, 3, 7, 10, 333.3, 50_000])
async def test_wait_equals_core_rate_limit(access: RedisAccess, rate: float) -> None:
    dice, now_us, full_at_us = random.Random(7), NOW_US, 0
    for _ in range(60):
        now_us += dice.randrange(int(2 * SECOND_US / rate))
        count = dice.randrange(4)
        full_at_us, wait_s = rates.take(full_at_us, rate, 5, count, now_us)

        assert await access.take("b", rate, 5, count, now_us) == wait_s


async def test_bucket_key_expires_after_refill(access: RedisAccess, setup: RedisSetup) -> None:
    await access.take("b", 10, 50, 30, NOW_US)

    assert 12_000 < await setup.ttl_ms(setup.keys.rate("b", "b")) <= 13_000


async def test_bucket_survives_a_server_clock_that_goes_back(access: RedisAccess, setup: RedisSetup) -> None:
    """After a failover to a server whose clock is an hour behind, buckets answered 429 for an hour."""
    buckets, key = (rates.Bucket("b", 0.01, 2),), setup.keys.rate("b", "b")
    access.use_server_time()
    await access.charge_all("b", buckets, 3, 0)
    full_at, written_at = (await setup.connection.call("GET", key)).split(b".00")
    hour_us = 3_600 * SECOND_US
    await setup.connection.call("SET", key, f"{int(full_at) + hour_us}.00{int(written_at) + hour_us}")

    assert 199 < (await access.take_all("b", buckets, 1, 0)).wait_s <= 200
    assert 299 < (await access.charge_all("b", buckets, 1, 0)).reset_s <= 300
    assert 299 < (await access.take_all("b", buckets, 1, 0)).wait_s <= 300


async def test_releases_read_the_buckets_of_each_other(access: RedisAccess, setup: RedisSetup) -> None:
    """An older release stores only when the bucket is full, and reads the whole value as a number."""
    buckets, key, now_us = (rates.Bucket("b", 0.01, 2),), setup.keys.rate("b", "b"), SystemClock().now_us()
    await access.charge_all("b", buckets, 2, now_us)
    newer = RedisAccess(setup.connection, setup.keys, Limits(), allow_oom=setup.allow_oom)
    newer.use_server_time()
    assert 99 < (await newer.charge_all("b", buckets, 0, 0)).reset_s <= 100
    assert b"." in await setup.connection.call("GET", key)

    assert 99 < (await access.take_all("b", buckets, 1, now_us)).wait_s <= 101


async def test_streams_open_and_end_at_maxmemory(real_setup: RedisSetup) -> None:
    connection, close = real_setup.connection, TerminalClose(4504, "alice", "phone", "c1")
    access = RedisAccess(connection, real_setup.keys, Limits(tickets=2))
    await connection.call("CONFIG", "SET", "maxmemory", "1")
    try:
        tickets = [await access.create_ticket(TICKET, NOW_US, 30 * SECOND_US) for _ in range(3)]
        assert [await access.redeem_ticket(ticket, NOW_US) for ticket in tickets] == [None, TICKET, TICKET]
        await access.save_terminal_close(tickets[1], close, NOW_US, 30 * SECOND_US)
        assert await access.terminal_close(tickets[1], NOW_US) == close
    finally:
        await connection.call("CONFIG", "SET", "maxmemory", "0")


async def test_rate_limits_work_at_maxmemory(real_setup: RedisSetup) -> None:
    connection = real_setup.connection
    access = RedisAccess(connection, real_setup.keys, Limits())
    await connection.call("CONFIG", "SET", "maxmemory", "1")
    try:
        with pytest.raises(Unavailable):
            await access.create_key(["ingest"])
        assert await access.take("b", 1, 1, 1, NOW_US) == 0.0
        assert await access.take("b", 1, 1, 1, NOW_US) == 1.0
    finally:
        await connection.call("CONFIG", "SET", "maxmemory", "0")
