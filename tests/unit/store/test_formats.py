"""Formats: values of a later release are refused by name, never misparsed, and nothing is changed."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gregor import __version__
from gregor.core.formats import FORMAT, READS
from gregor.core.items.announcement import decode_announcement, decode_fast
from gregor.core.items.codec import unpack_item
from gregor.core.items.sync import View, parse_cursor
from gregor.core.limits import Limits
from gregor.core.messages.model import Commit, ItemTimer, ItemTimerKind, RemovalReason
from gregor.core.notify.contact import Contact
from gregor.core.notify.intents import Intent, IntentKind
from gregor.core.notify.ledger import DeliveryState
from gregor.store.contract.devices import Registration
from gregor.store.contract.store import UnreadableValue
from gregor.store.formats import DeploymentFormats, ProcessFormats, WrittenFormat, readers_missing, refusal
from gregor.store.redis.keys import Keys
from gregor.store.redis.store import RedisStore, open_store
from tests.support.agendas import at, timed
from tests.support.builders import NOW_US, SECOND_US, SEED, creating, dismissing, interval, sweeping
from tests.unit.store.redis_setup import APNS, LEASE_US, RedisSetup, make_store, session

LATER = bytes([0x80 + 2])
UID, PHONE = "alice", View("phone")
INTENT = Intent(UID, "live", IntentKind.ITEM, "apns", "phone", seq=1, at_us=NOW_US)
Call = Callable[[RedisStore], Awaitable[Any]]


# ---- a user with a value of each kind


async def populate(store: RedisStore) -> None:
    """Give alice a live, a gone and an unknown item, a device with a session, a delivery, and a delayed message."""
    await store.devices.put_device(UID, "phone", Registration("ios", APNS), NOW_US)
    await store.devices.open_session(UID, "phone", session("s1"), NOW_US, LEASE_US)
    await store.contacts.put_contact(UID, Contact(email="a@example.org"))
    await store.users.commit(UID, timed("live", ItemTimer(ItemTimerKind.PUSH, at(5)), remind_at=["+3"]))
    await store.users.commit(UID, creating("gone", category="mail"))
    await store.users.commit(UID, dismissing("gone", "unknown", now_us=at(1)))
    await store.ledger.plan([INTENT], DeliveryState.PLANNED, None, at(1))
    await store.agenda.delay(UID, "later", b'{"message":{}}', at(100))


def kept(store: RedisStore) -> dict[str, tuple[str, str]]:
    """Return key and field of each value with a format byte."""
    keys = store.keys.of_user(UID)
    return {
        "head": (keys.state, ".h"),
        "live record": (keys.state, "live"),
        "gone record": (keys.state, "gone"),
        "tombstone": (keys.state, "unknown"),
        "delivery": (store.keys.deliveries(UID, "live"), "item/0/phone/apns"),
        "delayed message": (keys.later, "later"),
        "registration": (keys.devices, "phone"),
        "session": (keys.presence, "phone\0s1"),
        "contact": (keys.contact, "contact"),
    }


def commit(made: Commit) -> Call:
    """Return the call that commits."""
    return lambda store: store.users.commit(UID, made)


async def read_category(store: RedisStore) -> object:
    """Read the items of a category: their records are decoded at the end."""
    return (await store.agenda.category_items(UID, ["news"])).of("news", None)


LATE_US = at(10)
CALLS: dict[str, Call] = {
    "create": commit(creating("new", now_us=LATE_US)),
    "create a live id": commit(creating("live", now_us=LATE_US)),
    "create a gone id": commit(creating("gone", now_us=LATE_US)),
    "create an unknown id": commit(creating("unknown", now_us=LATE_US)),
    "create several": commit(creating("live", "gone", "unknown", now_us=LATE_US)),
    "dismiss a live id": commit(dismissing("live", now_us=LATE_US)),
    "dismiss a gone id": commit(dismissing("gone", now_us=LATE_US)),
    "dismiss an unknown id": commit(dismissing("unknown", now_us=LATE_US)),
    "dismiss several": commit(dismissing("live", "gone", "unknown", now_us=LATE_US)),
    "dismiss an interval": commit(sweeping(interval(prefix=""), now_us=LATE_US)),
    "replace": commit(creating("live", now_us=LATE_US)),
    "displace": commit(Commit(LATE_US, SEED, keep=(("news", 0),), reason=RemovalReason.DISPLACED)),
    "remind": commit(Commit(LATE_US, SEED, remind=("live", 0))),
    "remove a device": commit(Commit(LATE_US, SEED, forget_device="phone")),
    "full sync": lambda store: store.users.sync(UID, PHONE, None, None, LATE_US),
    "delta": lambda store: store.users.sync(UID, View(), parse_cursor("1234560000000000-1"), None, LATE_US),
    "state": lambda store: store.users.state(UID, PHONE, LATE_US),
    "state at": lambda store: store.users.state_at(UID, View(), at(2), LATE_US),
    "heads": lambda store: store.users.heads([UID]),
    "item": lambda store: store.users.item(UID, "live", View(), LATE_US),
    "gone item": lambda store: store.users.item(UID, "gone", View(), LATE_US),
    "history": lambda store: store.users.history(UID, View(), None, 10, LATE_US),
    "collect": lambda store: store.users.collect(UID, NOW_US + 400 * 86_400 * SECOND_US),
    "due work": lambda store: store.agenda.due_work(UID, at(200), 50),
    "live item": lambda store: store.agenda.live_item(UID, "live"),
    "mailable": lambda store: store.agenda.mailable(UID, "live", lambda category: True, 10),
    "items of a category": read_category,
    "delayed": lambda store: store.agenda.delayed(UID, "later"),
    "list delayed": lambda store: store.agenda.list_delayed(UID),
    "delay again": lambda store: store.agenda.delay(UID, "later", b'{"message":{}}', at(100)),
    "push context": lambda store: store.push_contexts.read(UID, "phone", "apns", "live", LATE_US),
    "claim": lambda store: store.ledger.claim(INTENT, "", LATE_US, at(40)),
    "move": lambda store: store.ledger.move(INTENT, [DeliveryState.PLANNED], DeliveryState.CANCELLED),
    "deliveries": lambda store: store.ledger.of_user(UID, 10),
    "expedite": lambda store: store.ledger.expedite(UID, "quiet", 0, LATE_US),
    "devices": lambda store: store.devices.list_devices(UID, LATE_US),
    "device": lambda store: store.devices.device(UID, "phone", LATE_US),
    "register": lambda store: store.devices.put_device(UID, "phone", Registration("android"), LATE_US),
    "open a session": lambda store: store.devices.open_session(UID, "phone", session("s2"), LATE_US, LEASE_US),
    "replace a session": lambda store: store.devices.open_session(UID, "phone", session("s1", "c2"), LATE_US, LEASE_US),
    "renew a session": lambda store: store.devices.renew_sessions([(UID, "phone", session("s1"))], LATE_US, LEASE_US),
    "close a session": lambda store: store.devices.close_session(UID, "phone", session("s1"), LATE_US),
    "session": lambda store: store.devices.session(UID, "phone", "s1", LATE_US),
    "presence": lambda store: store.devices.presence([UID], LATE_US),
    "foreground": lambda store: store.devices.foreground_until(UID, LATE_US),
    "audience": lambda store: store.devices.audience(UID, LATE_US),
    "contact": lambda store: store.contacts.contact(UID),
    "change the contact": lambda store: store.contacts.change_contact(UID, lambda each: each),
}

READERS = {
    "head": {"create", "dismiss a live id", "full sync", "state", "heads", "history", "collect", "push context"},
    "live record": {"create a live id", "dismiss a live id", "dismiss an interval", "displace", "remind", "state"},
    "gone record": {"create a gone id", "dismiss a gone id", "gone item", "history", "collect"},
    "tombstone": {"create an unknown id", "dismiss an unknown id", "history", "collect"},
    "delivery": {"claim", "move", "deliveries", "expedite"},
    "delayed message": {"delayed", "list delayed", "delay again"},
    "registration": {"devices", "device", "push context", "register", "audience"},
    "session": {
        "open a session",
        "replace a session",
        "renew a session",
        "close a session",
        "presence",
        "push context",
        "audience",
    },
    "contact": {"contact", "change the contact", "push context"},
}
"""Calls that must read the value, and so must be refused."""


def in_namespace(setup: RedisSetup, name: str) -> RedisSetup:
    """Return the same server with a namespace below that of the test."""
    return replace(setup, keys=Keys(f"{setup.keys.namespace}-{name}"))


@pytest.mark.parametrize("kind", READERS)
async def test_later_formats_are_refused_whole(setup: RedisSetup, kind: str) -> None:
    """A call fails by naming the format, and changes nothing, unless its result does not depend on the value."""
    if setup.url is None:
        return  # fakeredis does not pass on the errors of scripts
    refused = set()
    for name, call in CALLS.items():
        sound, later = [make_store(in_namespace(setup, f"{name}-{side}".replace(" ", "-"))) for side in "ab"]
        for store in (sound, later):
            await populate(store)
        key, field = kept(later)[kind]
        await setup.connection.call("HSET", key, field, LATER + b"x")
        before = await dump(setup, later)
        expected = await call(sound)
        try:
            result = await call(later)
        except UnreadableValue as error:
            refused.add(name)
            assert f"has format 2; this release of gregor ({__version__}) reads formats 1 to 1" in str(error)
            assert await dump(setup, later) == before, name
        else:
            assert repr(result) == repr(expected), name

    assert READERS[kind] <= refused


async def dump(setup: RedisSetup, store: RedisStore) -> dict[str, Any]:
    """Return everything that is stored for alice."""
    keys = store.keys.of_user(UID)
    found: dict[str, Any] = {}
    for key in (*keys.every, store.keys.deliveries(UID, "live"), keys.due):
        kind = (await setup.connection.call("TYPE", key)).decode()
        read = {"hash": ("HGETALL",), "zset": ("ZRANGE", 0, -1, "WITHSCORES"), "list": ("LRANGE", 0, -1)}.get(kind)
        if read:
            reply = await setup.connection.call(read[0], key, *read[1:])
            found[key] = sorted(zip(reply[::2], reply[1::2], strict=False)) if kind == "hash" else reply
    return found


# ---- pure decoders


@given(st.integers(0, 255).filter(lambda byte: byte not in b"Ll"), st.binary(min_size=80, max_size=120))
def test_item_of_another_format_is_refused(first: int, rest: bytes) -> None:
    with pytest.raises(ValueError, match=f"0x{first:02x}" if first < 0x80 else f"has format {first - 0x80};"):
        unpack_item(bytes([first]) + rest)


@given(st.integers(0, 255).filter(lambda byte: byte != ord("C")))
def test_announcement_of_another_format_is_refused(first: int) -> None:
    """The fast decoder leaves it to the general one."""
    payload = b"C" + SEED + (1).to_bytes(5, "big") + b"u\0" + bytes(16) + b"d\0\0\1+\0" + b"\2aa\0\0\x43"
    payload += b"L" + bytes(70)
    assert decode_fast(payload) is not None

    assert decode_fast(bytes([first]) + payload[1:]) is None
    with pytest.raises(ValueError, match="announcement"):
        decode_announcement(bytes([first]) + payload[1:])


# ---- the formats of a deployment


@given(st.integers(0, 9), st.text("0123456789.", min_size=5, max_size=8))
def test_process_starts_only_on_formats_it_reads(number: int, release: str) -> None:
    text = refusal(WrittenFormat(number, release))

    if READS[0] <= number <= READS[1]:
        assert text is None
    else:
        assert text is not None and f"has format {number}" in text and f"start gregor {release}" in text
        assert "\n" not in text


async def test_later_data_refuses_to_start(redis_server: str, real_setup: RedisSetup) -> None:
    """The error names the release that began to write the format."""
    keys = real_setup.keys
    await (await open_store(redis_server, Limits(), keys.namespace)).close()
    await real_setup.connection.call("HSET", keys.formats, "written", 2, "release", "0.7.0")

    with pytest.raises(ValueError, match=r"has format 2, and gregor .* reads formats 1 to 1; start gregor 0\.7\.0"):
        await open_store(redis_server, Limits(), keys.namespace)


async def test_data_without_formats_refuses_to_start(redis_server: str, real_setup: RedisSetup) -> None:
    """Releases before the format bytes stored a number of partitions only; their heads would be misparsed."""
    await real_setup.connection.call("SET", real_setup.keys.partitions, 1024)

    with pytest.raises(ValueError, match="without format bytes; use another GREGOR_NAMESPACE"):
        await open_store(redis_server, Limits(), real_setup.keys.namespace)


async def test_concurrent_first_starts_agree(redis_server: str, real_setup: RedisSetup) -> None:
    namespace = real_setup.keys.namespace
    stores = await asyncio.gather(*(open_store(redis_server, Limits(), namespace) for _ in range(8)))

    assert {await store.deployment.written_format() for store in stores} == {WrittenFormat(FORMAT, __version__)}
    for store in stores:
        await store.close()


@asynccontextmanager
async def running(url: str, namespace: str, service: str) -> Any:
    """A store of a registered process."""
    store = await open_store(url, Limits(), namespace, service=service)
    try:
        yield store
    finally:
        await store.close()


async def test_running_processes_are_registered(redis_server: str, real_setup: RedisSetup) -> None:
    """Each names its release and formats; a process that ends is removed at once, one that dies after 60 seconds."""
    keys = real_setup.keys
    async with running(redis_server, keys.namespace, "ingest") as store:
        async with running(redis_server, keys.namespace, "gateway"):
            await wait_for_services(store, {"ingest", "gateway"})
            found = await store.deployment.processes()
            assert {(each.release, each.reads, each.writes) for each in found} == {(__version__, READS, FORMAT)}
            assert 50_000 < await real_setup.ttl_ms(keys.processes) <= 60_000
        await wait_for_services(store, {"ingest"})


async def wait_for_services(store: RedisStore, expected: set[str]) -> None:
    """Wait until exactly these services are registered."""
    async with asyncio.timeout(10):
        while {each.service for each in await store.deployment.processes()} != expected:
            await asyncio.sleep(0.01)


async def test_dead_processes_are_no_longer_listed(real_setup: RedisSetup) -> None:
    store = make_store(real_setup)
    old = ProcessFormats("h:1:x", "ingest", "0.1.0", (1, 1), 1)
    await real_setup.connection.call("ZADD", store.keys.processes, 5, old.encode())

    assert await store.deployment.processes() == []


def test_processes_that_cannot_read_a_format_are_named() -> None:
    old = ProcessFormats("h:1:x", "ingest", "0.1.0", (1, 1), 1)
    new = ProcessFormats("h:2:x", "ingest", "0.2.0", (1, 2), 1)

    assert readers_missing(2, [old, new]) == [old]
    assert readers_missing(1, [old, new]) == []


processes = st.builds(
    lambda number, lowest, count, writes: ProcessFormats(
        f"h:{number}", "ingest", "1", (lowest, lowest + count), writes
    ),
    st.integers(0, 99),
    st.integers(1, 2),
    st.integers(0, 2),
    st.integers(1, 2),
)


@given(st.integers(1, 3), st.lists(processes, max_size=5))
def test_newest_format_needs_every_reader(written: int, running: list[ProcessFormats]) -> None:
    found = DeploymentFormats(WrittenFormat(written, "1"), running)
    readers = [each for each in running if each.reads[0] <= found.newest <= each.reads[1]]

    assert found.newest >= written
    assert (found.state == "finished") == all(each.reads[1] <= written for each in running)
    assert (found.state == "possible") == (found.newest > written and readers == running)
    assert found.blocking == [each for each in running if each not in readers]
