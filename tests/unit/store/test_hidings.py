"""Hidings of a ``"*"`` item: a read finds that of the reading device, without decoding those of 63 others."""

from __future__ import annotations

from hypothesis import example, given
from hypothesis import strategies as st

from gregor.clock import ManualClock
from gregor.core.items.codec import pack_item
from gregor.core.items.read_cost import HIDING_NS_PER_BYTE
from gregor.core.items.sync import View
from gregor.core.messages.model import Sender
from gregor.cpu_meter import CpuMeter
from gregor.store.redis.users.record_codec import decode_live, find_hiding
from gregor.store.redis.users.sync_reply import SyncReply
from tests.support.builders import NOW_US, creating, dismissing
from tests.support.cpu_time import fastest
from tests.unit.store.redis_setup import RedisSetup, make_store

DEVICES = [f"d{n:02}{'x' * 125}" for n in range(64)]


def packed(devices: list[str]) -> bytes:
    """Return the hidings of these devices, as the store writes them."""
    return b"".join(
        bytes((len(name),)) + name.encode() + n.to_bytes(5, "big") + NOW_US.to_bytes(7, "big") + b"d"
        for n, name in enumerate(devices)
    )


def record(hidings: bytes) -> bytes:
    """Return a live record with these hidings."""
    creation = creating("a", for_device="*").creations[0]
    raw = pack_item(creation)
    at = len(raw) - len(creation.body)
    return raw[:15] + len(hidings).to_bytes(2, "big") + raw[17:at] + hidings + raw[at:]


def reply(hidings: bytes, count: int = 156) -> SyncReply:
    """Return the reply of a full sync with so many items, for the last device."""
    ids, seqs = [b"i%d" % n for n in range(count)], [b"1"] * count
    raw = [b"f", b"H" + bytes(62), b"", bytes(40), b"0", [], ids, seqs, [record(hidings)] * count, [], [], count, 0]
    return SyncReply(raw, View(DEVICES[-1]), None, b"")


NAMES = st.one_of(
    st.text("ab1", min_size=1, max_size=3),
    # The length of such a name is a letter of other names: a longer name contains its bytes.
    st.integers(95, 100).map(lambda length: "b" * length),
    st.integers(95, 100).map(lambda length: "a" + "b" * length),
)


@given(st.lists(NAMES, unique=True, max_size=6), NAMES)
@example(["a" + "b" * 97], "b" * 97)
@example(["a" + "b" * 97, "b" * 97], "b" * 97)
def test_hiding_of_a_device_is_found_among_others(devices: list[str], wanted: str) -> None:
    raw = packed(devices)
    expected = decode_live("a", 1, record(raw)).hidings

    assert list(expected) == devices
    for device in (*devices, wanted, ""):
        assert find_hiding(raw, device) == expected.get(device)


def test_copy_with_hidings_takes_little_more_time() -> None:
    """With 9,828 hidings, which the bounds of a user permit, it took a service 17 ms in one piece."""
    plain, hidden, shown = packed([]), packed(DEVICES[1:]), packed(DEVICES[:-1])
    base = fastest(lambda: list(reply(plain).decode()))

    assert fastest(lambda: list(reply(hidden).decode())) < 15 * base
    assert fastest(lambda: list(reply(shown).decode())) < 15 * base


def test_decoding_pauses_after_many_bytes() -> None:
    assert len(list(reply(packed([]), count=199).decode())) == 0
    assert len(list(reply(packed([]), count=401).decode())) == 2
    assert len(list(reply(packed(DEVICES)).decode())) >= 4


async def test_hidings_of_a_copy_are_charged(real_setup: RedisSetup) -> None:
    """A copy in which all items are hidden is short, but Redis reads all of it."""
    users = make_store(real_setup).users
    await users.commit("alice", creating("a", "b", for_device="*"))
    costs = []
    for device in DEVICES[:3]:
        meter = CpuMeter(ManualClock(NOW_US).cpu_ns)
        await meter.run(users.sync("alice", View("phone"), None, None, NOW_US))
        costs.append(meter.used_ns)
        await users.commit("alice", dismissing("a", "b", sender=Sender(device)))

    assert [cost - costs[0] for cost in costs] == [n * 2 * (128 + 14) * HIDING_NS_PER_BYTE for n in range(3)]
