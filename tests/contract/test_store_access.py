"""Service keys, tickets and rate limits, in every store (contract ``Access``)."""

from __future__ import annotations

import asyncio
import re

import pytest

from gregor.clock import SystemClock
from gregor.core.ids import Prefixes
from gregor.core.items.sync import View
from gregor.core.rate_limit import Bucket
from gregor.store import service_keys
from gregor.store.contract.access import KeyLimits, TerminalClose, Ticket
from gregor.store.contract.store import Store
from tests.support.builders import DAY_US, HOUR_US, NOW_US, SECOND_US


async def test_only_the_hash_of_a_key_is_stored(store: Store) -> None:
    key, text = await store.access.create_key(["ingest", "read"], ["user.joined", "user"], 5.0, "billing", NOW_US)

    assert re.fullmatch(r"gk_[a-z0-9]{12}_[A-Za-z0-9_-]{43}", text)
    parsed = service_keys.parse(text)
    assert parsed is not None and parsed[0] == key.id
    assert (key.scopes, key.prefixes, key.rate) == (frozenset({"ingest", "read"}), ("user",), 5.0)
    assert (key.name, key.created_us) == ("billing", NOW_US)
    assert key.hashes == ((service_keys.hash_of(parsed[1]), None),)
    assert await store.access.key(key.id) == key
    assert parsed[1] not in repr(key)


async def test_key_without_limits_is_unlimited(store: Store) -> None:
    key, _ = await store.access.create_key(["admin"])

    assert (key.prefixes, key.rate, key.name) == (None, None, None)
    assert await store.access.key(key.id) == key


async def test_keys_are_listed_by_id_and_deleted_once(store: Store) -> None:
    made = sorted([(await store.access.create_key(["read"]))[0] for _ in range(3)], key=lambda key: key.id)
    assert await store.access.keys() == made

    assert await store.access.delete_key(made[0].id) is True
    assert await store.access.delete_key(made[0].id) is False
    assert await store.access.key(made[0].id) is None
    assert await store.access.keys() == made[1:]


async def test_rotation_keeps_the_old_secret_for_a_while(store: Store) -> None:
    key, text = await store.access.create_key(["ingest"])
    _, old = service_keys.parse(text) or ("", "")

    fresh = await store.access.rotate_key(key.id, NOW_US, DAY_US)

    _, new = service_keys.parse(fresh or "") or ("", "")
    rotated = await store.access.key(key.id)
    assert rotated is not None and new != old
    assert rotated.hashes == ((service_keys.hash_of(new), None), (service_keys.hash_of(old), NOW_US + DAY_US))
    assert service_keys.is_valid(rotated, new, NOW_US + 2 * DAY_US)
    assert service_keys.is_valid(rotated, old, NOW_US + DAY_US - 1)
    assert not service_keys.is_valid(rotated, old, NOW_US + DAY_US)
    assert await store.access.rotate_key("unknown00000", NOW_US, DAY_US) is None


async def test_rotating_again_keeps_earlier_expiries(store: Store) -> None:
    """A client that repeats a rotation because it lost the reply must not lock other processes out."""
    key, text = await store.access.create_key(["ingest"])
    texts = [text]
    for hours in range(3):
        texts.append(str(await store.access.rotate_key(key.id, NOW_US + hours * HOUR_US, DAY_US)))

    rotated = await store.access.key(key.id)

    assert rotated is not None
    first, second, third, newest = (secret for _, secret in (service_keys.parse(text) or ("", "") for text in texts))
    for hours, secret in enumerate((first, second, third)):
        end_us = NOW_US + hours * HOUR_US + DAY_US
        assert service_keys.is_valid(rotated, secret, end_us - 1)
        assert not service_keys.is_valid(rotated, secret, end_us)
    assert service_keys.is_valid(rotated, newest, NOW_US + 99 * DAY_US)


async def test_secrets_of_a_key_are_bounded(store: Store) -> None:
    key, _ = await store.access.create_key(["ingest"])
    for _ in range(service_keys.MAX_SECRETS + 3):
        await store.access.rotate_key(key.id, NOW_US, DAY_US)
    full = await store.access.key(key.id)

    await store.access.rotate_key(key.id, NOW_US + DAY_US, DAY_US)

    later = await store.access.key(key.id)
    assert full is not None and len(full.hashes) == service_keys.MAX_SECRETS
    assert later is not None and len(later.hashes) == 2


async def test_ticket_is_redeemed_once(store: Store) -> None:
    ticket = Ticket("alice", "phone", False, ("user",), None, {"exp": 1_800_000_000, "cats": ["user"]})
    text = await store.access.create_ticket(ticket, NOW_US, 30 * SECOND_US)

    spent = await asyncio.gather(*(store.access.redeem_ticket(text, NOW_US) for _ in range(10)))

    assert [each for each in spent if each is not None] == [ticket]
    assert await store.access.redeem_ticket("nonsense", NOW_US) is None


async def test_ticket_is_read_without_being_used(store: Store) -> None:
    ticket = Ticket("alice", "phone", False, ("user",), None, {"exp": 1_800_000_000})
    text = await store.access.create_ticket(ticket, NOW_US, 30 * SECOND_US)

    assert [await store.access.ticket(text, NOW_US) for _ in range(2)] == [ticket, ticket]
    assert await store.access.ticket(text, NOW_US + 30 * SECOND_US) is None
    assert await store.access.ticket("nonsense", NOW_US) is None
    assert await store.access.redeem_ticket(text, NOW_US) == ticket
    assert await store.access.ticket(text, NOW_US) is None


async def test_ticket_expires(store: Store) -> None:
    ticket = Ticket("alice", View().device, True, None, ())
    texts = [await store.access.create_ticket(ticket, NOW_US, 30 * SECOND_US) for _ in range(2)]

    assert texts[0] != texts[1]
    assert await store.access.redeem_ticket(texts[0], NOW_US + 30 * SECOND_US - 1) == ticket
    assert await store.access.redeem_ticket(texts[1], NOW_US + 30 * SECOND_US) is None


async def test_terminal_close_is_kept_for_its_lifetime(store: Store) -> None:
    first, last = TerminalClose(4504, "alice", "phone", "c1"), TerminalClose(4502, "alice", "phone", "c2")
    await store.access.save_terminal_close("hash/tab", first, NOW_US, 90 * SECOND_US)
    await store.access.save_terminal_close("hash/tab", last, NOW_US, 60 * SECOND_US)

    assert await store.access.terminal_close("hash/tab", NOW_US + 60 * SECOND_US - 1) == last
    assert await store.access.terminal_close("hash/tab", NOW_US + 60 * SECOND_US) is None
    assert await store.access.terminal_close("hash/", NOW_US) is None


async def test_bucket_allows_burst_then_rate(store: Store) -> None:
    async def take(count: int, now_us: int = NOW_US) -> float:
        return await store.access.take("bucket", 10.0, 5, count, now_us)

    assert [await take(1) for _ in range(6)] == [0.0] * 5 + [0.1]
    assert await take(1, NOW_US + 99_999) > 0
    assert await take(1, NOW_US + 100_000) == 0.0
    assert await take(5, NOW_US + 100_000 + 499_999) > 0
    assert await take(5, NOW_US + 100_000 + 500_000) == 0.0


async def test_refused_request_takes_no_tokens(store: Store) -> None:
    assert await store.access.take("bucket", 1.0, 3, 2, NOW_US) == 0.0
    assert await store.access.take("bucket", 1.0, 3, 2, NOW_US) == 1.0
    assert await store.access.take("bucket", 1.0, 3, 1, NOW_US) == 0.0


async def test_buckets_are_independent(store: Store) -> None:
    assert await store.access.take("a", 1.0, 1, 1, NOW_US) == 0.0
    assert await store.access.take("b", 1.0, 1, 1, NOW_US) == 0.0
    assert await store.access.take("a", 1.0, 1, 1, NOW_US) == 1.0


async def test_buckets_are_taken_together_or_not_at_all(store: Store) -> None:
    device, user = Bucket("device", 1.0, 3), Bucket("user", 0.5, 4)
    assert (await store.access.take_all("alice", (device, user), 2, NOW_US)).wait_s == 0.0
    assert (await store.access.take_all("alice", (Bucket("other", 1.0, 3), user), 3, NOW_US)).wait_s == 2.0

    assert (await store.access.take_all("alice", (Bucket("other", 1.0, 3),), 3, NOW_US)).wait_s == 0.0
    assert (await store.access.take_all("alice", (user,), 2, NOW_US)).wait_s == 0.0


async def test_charge_may_leave_a_debt(store: Store) -> None:
    device, user = Bucket("device", 2.0, 10), Bucket("user", 1.0, 40)
    access = store.access

    assert await access.charge_all("alice", (device, user), 4, NOW_US) == (0.0, 6, 2.0)
    # 11 s until it is full, 6.5 s until it has one
    assert await access.charge_all("alice", (device, user), 18, NOW_US) == (0.0, 0, 6.5)
    assert (await access.take_all("alice", (device, user), 1, NOW_US)).wait_s == 6.5
    assert (await access.take_all("alice", (device, user), 1, NOW_US + 6_499_999)).wait_s > 0
    assert (await access.take_all("alice", (device, user), 1, NOW_US + 6_500_000)).wait_s == 0.0


async def test_take_may_leave_a_debt_if_the_rest_is_there(store: Store) -> None:
    buckets, access = (Bucket("key", 2.0, 5),), store.access

    assert await access.take_all("key", buckets, 1, NOW_US) == (0.0, 4, 0.5)
    assert (await access.take_all("key", buckets, 5, NOW_US, 20)).wait_s == 0.5  # and nothing was taken
    # 24 of 5 are used: 12 s until it is full, 10 s until it has one
    assert await access.take_all("key", buckets, 4, NOW_US, 19) == (0.0, 0, 10.0)
    assert (await access.take_all("key", buckets, 1, NOW_US)).wait_s == 10.0
    assert (await access.take_all("key", buckets, 1, NOW_US + 9_999_999)).wait_s > 0
    assert (await access.take_all("key", buckets, 1, NOW_US + 10_000_000)).wait_s == 0.0


async def test_take_may_follow_a_debt_of_the_same_request(store: Store) -> None:
    """A message of weight 8, after its text took 7 of a burst of 5, needs no tokens that others did not take."""
    buckets, access = (Bucket("key", 2.0, 5),), store.access
    assert (await access.take_all("key", buckets, 5, NOW_US, 2)).wait_s == 0.0

    assert await access.take_all("key", buckets, 5 - 7, NOW_US, 1 + 7 - 5) == (0.0, 0, 2.0)
    assert (await access.take_all("key", buckets, 5 - 7, NOW_US, 1 + 7 - 5)).wait_s == 0.5


async def test_limits_of_a_key_are_kept(store: Store) -> None:
    limits: KeyLimits = {"systems": ["chat.typing", "chat"], "expires_us": NOW_US, "addresses": ["192.0.2.0/24"]}
    key, _ = await store.access.create_key(["read"], **limits)

    kept = await store.access.key(key.id)

    assert kept is not None
    assert (kept.systems, kept.expires_us, kept.addresses) == (("chat",), NOW_US, ("192.0.2.0/24",))


async def test_systems_of_a_key_by_default(store: Store) -> None:
    async def allowed(prefixes: list[str] | None, systems: list[str] | None) -> Prefixes:
        key, _ = await store.access.create_key(["read"], prefixes, systems=systems)
        kept = await store.access.key(key.id)
        assert kept is not None
        return kept.allowed_systems

    assert await allowed(None, None) is None
    assert await allowed(["user"], None) == ()
    assert await allowed(["user"], [""]) == ("",)
    assert await allowed(None, []) == ()


async def test_impossible_key_is_refused(store: Store) -> None:
    with pytest.raises(ValueError, match="Remove prefixes"):
        await store.access.create_key(["admin"], ["user"])

    assert await store.access.keys() == []


async def test_use_of_a_key_is_kept_until_its_deletion(store: Store) -> None:
    key, _ = await store.access.create_key(["read"])
    assert await store.access.key_uses() == {}

    await store.access.record_key_use(key.id, NOW_US)
    await store.access.record_key_use(key.id, NOW_US + 1)
    assert await store.access.key_uses() == {key.id: NOW_US + 1}

    await store.access.delete_key(key.id)
    assert await store.access.key_uses() == {}


async def test_audit_events_are_paged_newest_first(store: Store) -> None:
    for number in range(5):
        await store.access.append_audit(b"%d" % number)

    first = await store.access.audit_page(None, 3)
    rest = await store.access.audit_page(first[-1][0], 3)

    assert [event for _, event in [*first, *rest]] == [b"4", b"3", b"2", b"1", b"0"]
    assert await store.access.audit_page(rest[-1][0], 3) == []
    assert await store.access.audit_page("0-0", 3) == await store.access.audit_page("00-00", 3) == []


AHEAD_US = 300 * SECOND_US


async def test_process_with_a_wrong_clock_neither_empties_nor_fills_buckets(store: Store) -> None:
    access, buckets = store.access, (Bucket("b", 0.01, 2),)
    access.use_server_time()
    now_us = SystemClock().now_us()

    assert (await access.take_all("alice", buckets, 1, now_us + AHEAD_US)).wait_s == 0
    assert (await access.take_all("alice", buckets, 1, now_us)).wait_s == 0, "the first process is ahead"
    for own_us in (now_us - AHEAD_US, now_us + AHEAD_US) * 3:
        assert 90 < (await access.take_all("alice", buckets, 1, own_us)).wait_s <= 100
    await access.charge_all("alice", buckets, 1, now_us - AHEAD_US)
    assert 190 < (await access.take_all("alice", buckets, 1, now_us + AHEAD_US)).wait_s <= 200
