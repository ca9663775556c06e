"""A deleted user leaves nothing in the state Redis that contains its id: a revocation and a hash stay, unnamed."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from itertools import count
from typing import Any

import pytest

from gregor.core.errors import Problem
from gregor.core.items.sync import View
from gregor.core.limits import Limits
from gregor.core.messages.model import Commit, Sender
from gregor.core.notify.contact import parse_contact, parse_preferences
from gregor.core.notify.intents import WEBHOOK, Intent, IntentKind
from gregor.core.notify.ledger import Claim, DeliveryAttempt, DeliveryHistory, DeliveryState
from gregor.core.rate_limit import Bucket
from gregor.store.contract.access import TerminalClose, Ticket
from gregor.store.contract.devices import Registration
from gregor.store.contract.store import Contended, Unavailable
from gregor.store.deleted_users import DELETED_USERS_KEPT_US, user_id_hash
from gregor.store.redis.store import RedisStore
from gregor.store.redis.users.delete_user import RedisUserDeletion
from tests.support.builders import SECOND_US, SEED, creating, dismissing, external, planned
from tests.unit.store.redis_setup import APNS, LEASE_US, NOW_US, WEB, RedisSetup, make_store, session

PHONE = Intent("alice", "a", IntentKind.ITEM, "apns", "phone", at_us=NOW_US)


async def store_everything(store: RedisStore, uid: str) -> None:
    """Store something of every kind for a user."""
    users, devices, ledger = store.users, store.devices, store.ledger
    store.recorded_events.removals = store.recorded_events.acknowledgements = store.recorded_events.deliveries = True
    await devices.put_device(uid, "phone", Registration("ios", {**APNS, "token": f"token-of-{uid}"}), NOW_US)
    await devices.open_session(uid, "phone", session("s"), NOW_US, LEASE_US)
    await users.commit(uid, creating("a", "b", "c"))
    await users.commit(uid, dismissing("b", "unknown"))
    await users.commit(uid, planned(external(1, message_id="m")))
    await store.access.create_ticket(Ticket(uid, "phone", False, None, None), NOW_US, SECOND_US)
    await devices.acknowledge(uid, View("phone"), 1, NOW_US)
    await store.agenda.delay(uid, "later", b"{}", NOW_US + SECOND_US)
    await store.contacts.put_contact(uid, parse_contact({"email": f"{uid}@example.com"}))
    await store.contacts.put_preferences(uid, parse_preferences({"*": {"push": False}}))
    ends = {"phone": DeliveryState.DEAD, "tv": DeliveryState.SENT, "tablet": DeliveryState.RETRY}
    for device, state in ends.items():
        intent = replace(PHONE, uid=uid, device=device)
        await ledger.plan([intent], DeliveryState.PLANNED, None, NOW_US)
        claim = await ledger.claim(intent, f"{device}/place", NOW_US, NOW_US + SECOND_US)
        assert isinstance(claim, Claim)
        history = DeliveryHistory(NOW_US, attempts=(DeliveryAttempt(NOW_US, "400"),), since_us=NOW_US)
        if device != "tablet":
            await ledger.record_outcome(claim.delivery, f"{device}/place", state, history)
    await ledger.plan([replace(PHONE, uid=uid, kind=IntentKind.WITHDRAW)], DeliveryState.PLANNED, None, NOW_US)
    event = Intent(uid, "b", IntentKind.EVENT, WEBHOOK, "wh_a:b2c", at_us=NOW_US, event='{"type":"item.dismissed"}')
    await ledger.plan([event], DeliveryState.PLANNED, None, NOW_US)
    await ledger.plan([replace(PHONE, uid=uid, item="c")], DeliveryState.CANCELLED, "present", NOW_US)
    await devices.revoke(uid, f"tv-of-{uid}", NOW_US, NOW_US)
    await store.access.take_all(uid, (Bucket(f"messages/{uid}/phone", 0.1, 10), Bucket(f"user/{uid}", 1, 9)), 1, NOW_US)
    close = TerminalClose(4502, uid, "phone", "connection")
    await store.access.save_terminal_close(f"credential-of-{uid}", close, NOW_US, SECOND_US * 3_600)


async def trace(setup: RedisSetup, uid: str) -> set[str]:
    """Return the kinds of keys whose name or content contains a user's id."""
    found, call = set(), setup.connection.call
    for key in await call("KEYS", f"{setup.keys.namespace}:*"):
        commands: dict[bytes, tuple[Any, ...]] = {
            b"string": ("GET", key),
            b"hash": ("HGETALL", key),
            b"zset": ("ZRANGE", key, 0, -1),
            b"list": ("LRANGE", key, 0, -1),
            b"stream": ("XRANGE", key, "-", "+"),
        }
        content = await call(*commands[bytes(await call("TYPE", key))])
        if uid in f"{key!r} {content!r}":
            found.add(key.decode().removeprefix(f"{setup.keys.namespace}:").partition(":")[2].partition(":")[0])
    return found


async def test_deleting_a_user_leaves_no_key_of_it(setup: RedisSetup) -> None:
    store = make_store(setup)
    for uid in ("alice", "alicia"):
        await store_everything(store, uid)
    before = await trace(setup, "alicia")
    assert {"h", "a", "x", "led", "ledx", "evx", "wdr", "fly", "later", "dev", "on", "ack", "due", "dead"} <= before

    await store.users.delete_user("alice", NOW_US)

    assert await trace(setup, "alice") == set()
    assert await trace(setup, "alicia") == before
    assert await store.devices.revoked_before("alice", "tv-of-alice") is not None
    assert await store.access.terminal_close("credential-of-alice", NOW_US) is not None
    await store.devices.put_device("bob", "phone", Registration("ios", {**APNS, "token": "token-of-alice"}), NOW_US)
    registration, _ = (await store.devices.list_devices("bob", NOW_US))["phone"]
    assert await store.devices.owns_push_token("bob", "phone", registration)


async def test_user_deletion_works_at_maxmemory(real_setup: RedisSetup) -> None:
    store, call = make_store(real_setup), real_setup.connection.call
    await store_everything(store, "alice")
    await call("CONFIG", "SET", "maxmemory", "1")
    try:
        await store.users.delete_user("alice", NOW_US)
    finally:
        await call("CONFIG", "SET", "maxmemory", "0")

    assert await trace(real_setup, "alice") == set()
    assert await store.users.deleted_since(NOW_US) == {user_id_hash("alice")}


async def test_deleted_user_hashes_expire(setup: RedisSetup) -> None:
    """Even the dead letters of a partition that is never written again, and hashes if no other user is deleted."""
    store = make_store(setup)
    await store_everything(store, "alice")
    retention_ms, known_ms = Limits().retention_us // 1_000, DELETED_USERS_KEPT_US // 1_000

    assert 0 < await setup.ttl_ms(setup.keys.of_user("alice").dead) <= retention_ms
    await store.users.delete_user("alice", NOW_US)
    assert 0 < await setup.ttl_ms(setup.keys.deleted_users) <= known_ms


class Meanwhile:
    """A connection that runs a callback once, right after a step of the deletion."""

    def __init__(self, connection: Any, step: int, act: Callable[[], Awaitable[None]]) -> None:
        self._connection = connection
        self._left = step
        self._act = act

    def call(self, *args: Any) -> asyncio.Future[Any]:
        return asyncio.ensure_future(self._after(self._connection.call(*args)))

    def evalsha(self, *args: Any) -> asyncio.Future[Any]:
        return asyncio.ensure_future(self._after(self._connection.evalsha(*args)))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)

    async def _after(self, reply: Awaitable[Any]) -> Any:
        found = await reply
        self._left -= 1
        if self._left == 0:
            await self._act()
        return found


def deletion(connection: Any, setup: RedisSetup, store: RedisStore) -> RedisUserDeletion:
    """Return the deletion of users who are disconnected already."""
    return RedisUserDeletion(connection, setup.keys, store.devices.remove_pushes, allow_oom=setup.allow_oom)


@pytest.mark.parametrize("step", range(2, 6))  # the first finds the push tokens, the second deletes the state
async def test_user_created_during_deletion_keeps_its_data(setup: RedisSetup, step: int) -> None:
    store, anew = make_store(setup), replace(PHONE, item="anew")
    await store_everything(store, "alice")

    async def come_anew() -> None:
        await store.users.commit("alice", creating("anew", remind_at=["+1"]))
        assert (await store.ledger.plan([anew], DeliveryState.PLANNED, None, NOW_US)).new == [anew]

    late: Any = Meanwhile(setup.connection, step, come_anew)
    await RedisUserDeletion(late, setup.keys, store.devices.remove_pushes, allow_oom=setup.allow_oom).delete(
        "alice", NOW_US
    )

    assert await setup.connection.call("ZSCORE", setup.keys.of_user("alice").due, "alice") is not None
    kept, listed = (await store.ledger.of_item("alice", "anew"), await store.ledger.of_user("alice", 9))
    assert [each.intent.item for each in listed] == [each.intent.item for each in kept]


@pytest.mark.parametrize("token", ["token-of-alice", "another"])
@pytest.mark.parametrize("step", range(1, 7))
async def test_device_registered_during_deletion_leaves_no_owner(setup: RedisSetup, step: int, token: str) -> None:
    """A request registers a push token before the deletion of the registrations."""
    store = make_store(setup)
    registration = Registration("ios", {**APNS, "token": token})
    late: Any = Meanwhile(
        setup.connection, step, lambda: store.devices.put_device("alice", "phone", registration, NOW_US + 1)
    )
    await store_everything(store, "alice")

    await make_store(replace(setup, connection=late)).users.delete_user("alice", NOW_US)

    assert await trace(setup, "alice") == set()


async def test_deletion_ends_although_a_device_registers_all_the_time(setup: RedisSetup) -> None:
    """The deletion is refused, and a repeat completes it."""
    store, registration = make_store(setup), Registration("ios", APNS)
    await store_everything(store, "alice")

    async def register_again(uid: str, registrations: Mapping[str, bytes]) -> None:
        await store.devices.remove_pushes(uid, registrations)
        await store.devices.put_device(uid, "phone", registration, NOW_US)

    with pytest.raises(Contended):
        await RedisUserDeletion(setup.connection, setup.keys, register_again, allow_oom=setup.allow_oom).delete(
            "alice", NOW_US
        )
    await store.users.delete_user("alice", NOW_US)

    assert await trace(setup, "alice") == set()


@pytest.mark.parametrize("ending", ["delete", "revoke", "forget"])
async def test_deletion_completes_what_was_interrupted(setup: RedisSetup, ending: str) -> None:
    """A deletion, a revocation or the removal of a device ends after each of its commands."""
    store = make_store(setup)

    async def fail() -> None:
        raise Unavailable("the server is away")

    for step in count(1):
        await store_everything(store, "alice")
        await store.devices.put_device("alice", "web", Registration("web", WEB), NOW_US)
        late: Any = Meanwhile(setup.connection, step, fail)
        interrupted = make_store(replace(setup, connection=late))
        try:
            match ending:
                case "delete":
                    await interrupted.users.delete_user("alice", NOW_US)
                case "revoke":
                    await interrupted.devices.revoke("alice", None, NOW_US, NOW_US)
                case _:
                    await interrupted.devices.forget_device("alice", "phone", NOW_US, SEED)
        except Unavailable:
            await store.users.delete_user("alice", NOW_US)
            assert await trace(setup, "alice") == set(), f"after command {step}"
        else:
            assert step > 5
            return


@pytest.mark.parametrize("step", range(1, 8))
async def test_late_outcome_of_a_deletion_leaves_nothing(setup: RedisSetup, step: int) -> None:
    """A delivery worker has begun before the deletion, and writes between its steps."""
    store, late_push, next_push = make_store(setup), replace(PHONE, device="late"), replace(PHONE, device="next")
    await store_everything(store, "alice")
    await store.ledger.plan([late_push, next_push], DeliveryState.PLANNED, None, NOW_US)
    claim = await store.ledger.claim(late_push, "", NOW_US, NOW_US + SECOND_US)
    assert isinstance(claim, Claim)

    async def end_work() -> None:
        await store.ledger.claim(next_push, "place", NOW_US, NOW_US + SECOND_US)
        await store.ledger.record_outcome(claim.delivery, "", DeliveryState.SENT, DeliveryHistory(NOW_US))

    late: Any = Meanwhile(setup.connection, step, end_work)
    await RedisUserDeletion(late, setup.keys, store.devices.remove_pushes, allow_oom=setup.allow_oom).delete(
        "alice", NOW_US
    )

    assert await trace(setup, "alice") & {"h", "a", "due", "led", "ledx", "evx", "dead", "fly", "wdr", "fold"} == set()


async def test_inactive_device_of_a_deleted_user_leaves_nothing(setup: RedisSetup) -> None:
    """The user is deleted after a scheduler has read its devices."""
    store = make_store(setup)
    await store.devices.ensure_device("alice", "phone", NOW_US)
    late: Any = Meanwhile(setup.connection, 2, lambda: store.users.delete_user("alice", NOW_US))

    devices = make_store(replace(setup, connection=late)).devices
    await devices.forget_inactive("alice", NOW_US + Limits().retention_us + 1)

    assert await trace(setup, "alice") == set()


async def test_displaced_device_of_a_deleted_user_starts_no_user(setup: RedisSetup) -> None:
    store, limits = make_store(setup), Limits(devices=1)
    await store.users.commit("alice", creating("a"))
    await store.devices.ensure_device("alice", "phone", NOW_US)
    late: Any = Meanwhile(setup.connection, 3, lambda: store.users.delete_user("alice", NOW_US))

    await make_store(replace(setup, connection=late), limits).devices.ensure_device("alice", "tablet", NOW_US)

    assert await store.users.heads(["alice"]) == [None]
    assert list(await store.devices.list_devices("alice", NOW_US)) == ["tablet"]


async def test_due_work_of_a_deleted_user_leaves_nothing(setup: RedisSetup) -> None:
    """The user is deleted between the two steps of a commit of due work."""
    store = make_store(setup)
    await store.users.commit("alice", creating("a", expires="+1"))
    late: Any = Meanwhile(setup.connection, 1, lambda: store.users.delete_user("alice", NOW_US))

    await make_store(replace(setup, connection=late)).users.commit_due("alice", NOW_US + 9 * SECOND_US)

    assert await store.users.heads(["alice"]) == [None]


async def test_message_that_is_sent_again_after_a_deletion_is_refused(setup: RedisSetup) -> None:
    """An item has expired, so the messages of a device are sent twice. The user is deleted meanwhile."""
    store = make_store(setup)
    await store.users.commit("alice", creating("a", expires="+1"))
    late: Any = Meanwhile(setup.connection, 1, lambda: store.users.delete_user("alice", NOW_US))
    phone, now_us = Sender("phone", issued_us=NOW_US), NOW_US + 9 * SECOND_US
    lines = [("alice", creating(name, sender=phone, now_us=now_us)) for name in "bc"]

    results = await make_store(replace(setup, connection=late)).users.commit_many(lines)

    assert [isinstance(each, Problem) and each.code for each in results] == ["unauthorised"] * 2
    assert await store.users.heads(["alice"]) == [None]


async def test_reset_of_a_deleted_user_leaves_nothing(setup: RedisSetup) -> None:
    """All users are reset. A commit finds that of a user first, and the user is deleted before its reset."""
    store = make_store(setup)
    await store.users.commit("alice", creating("a"))
    await store.users.reset_partitions(1, range(store.agenda.partition_count), 0)
    late: Any = Meanwhile(setup.connection, 1, lambda: store.users.delete_user("alice", NOW_US))

    await make_store(replace(setup, connection=late)).users.commit("alice", Commit(NOW_US, SEED, remind=("a", 0)))

    assert await store.users.heads(["alice"]) == [None]
