"""Fair delivery queues: the backlog of one user never delays the deliveries of another."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gregor.clock import ManualClock
from gregor.core.notify.intents import Intent, IntentKind
from gregor.reference.store.deliveries import MemoryQueueWriter
from gregor.store.contract.agenda import WorkKind
from gregor.store.contract.queue import DeliveryQueueWriter
from gregor_scheduler.delivery_publisher import DeliveryPublisher
from gregor_scheduler.user_shares import MAX_BUCKETS, MIN_BURST, UserShares

RATE = 10.0
BURST = UserShares(RATE).burst
STEPS = st.lists(
    st.tuples(st.sampled_from(["mallory", "alice", "bob"]), st.integers(1, BURST), st.floats(0.0, 30.0)),
    min_size=1,
    max_size=30,
)


def intents(uid: str, count: int, channel: str = "fcm") -> list[Intent]:
    return [Intent(uid, f"i{n}", IntentKind.ITEM, channel, "phone") for n in range(count)]


@given(steps=STEPS)
def test_entries_of_a_user_are_bounded_by_burst_and_rate(steps: list[tuple[str, int, float]]) -> None:
    shares, now_s = UserShares(RATE), 0.0
    published: dict[str, list[tuple[float, int]]] = {}
    for uid, count, pause_s in steps:
        now_s += pause_s
        passed, refused = shares.split(intents(uid, count), now_s)
        assert len(passed) + len(refused) == count
        if passed:
            published.setdefault(uid, []).append((now_s, count))
    for counts in published.values():
        for first in range(len(counts)):
            for last in range(first, len(counts)):
                entries = sum(count for _, count in counts[first : last + 1])
                assert entries <= BURST + RATE * (counts[last][0] - counts[first][0]) + 1


@given(steps=STEPS, count=st.integers(1, MIN_BURST))
def test_other_users_never_delay_a_delivery(steps: list[tuple[str, int, float]], count: int) -> None:
    shares, now_s = UserShares(RATE), 0.0
    for uid, others, pause_s in steps:
        now_s += pause_s
        shares.split(intents(uid, others), now_s)

    assert shares.split(intents("carol", count), now_s) == (intents("carol", count), [])


async def test_backlog_of_a_user_does_not_precede_the_deliveries_of_others() -> None:
    queue, clock, refused, full = MemoryQueueWriter(), ManualClock(0), list[str](), list[str]()

    async def connect() -> DeliveryQueueWriter:
        return queue

    publisher = DeliveryPublisher(connect, clock.monotonic, UserShares(RATE), refused.append, full.append)
    for _ in range(100):
        await publisher.publish(intents("mallory", MIN_BURST))
    assert await publisher.publish(intents("alice", 3)) == []

    uids = [intent.uid for intent in queue.intents]
    assert uids.index("alice") <= BURST
    assert len(refused) == 100 * MIN_BURST - uids.count("mallory")
    assert full == []


async def test_full_stream_is_counted_apart_from_the_shares() -> None:
    """An alert compared the sums: one user above its share hid that the stream was full."""
    queue, refused, full = MemoryQueueWriter(most=2), list[str](), list[str]()

    async def connect() -> DeliveryQueueWriter:
        return queue

    publisher = DeliveryPublisher(connect, ManualClock(0).monotonic, UserShares(RATE), refused.append, full.append)
    shares = [publisher.take_share(intents("mallory", BURST)) for _ in range(2)]
    assert await publisher.publish(intents("alice", 2)) == []
    assert len(await publisher.publish(intents("alice", 3))) == 3
    assert len(await publisher.publish(intents("bob", 1), has_share=True)) == 1

    assert shares[0] == 0.0 < shares[1]
    assert (len(refused), full) == (BURST, ["fcm"] * 4)


def test_refused_deliveries_pass_later() -> None:
    shares = UserShares(RATE)
    passed, _ = shares.split(intents("alice", BURST), 0.0)
    _, refused = shares.split(intents("alice", 64), 1.0)

    assert (len(passed), len(refused)) == (BURST, 64)
    assert shares.split(refused, 7.5)[1] == []


@given(steps=STEPS)
def test_announced_wait_is_enough(steps: list[tuple[str, int, float]]) -> None:
    shares, now_s = UserShares(RATE), 0.0
    for uid, count, pause_s in steps:
        now_s += pause_s + shares.wait_s(uid, "fcm", count, now_s + pause_s)
        assert shares.take(uid, "fcm", count, now_s) <= 1e-6


@given(steps=STEPS, kind=st.sampled_from([WorkKind.PUSH, WorkKind.FOLLOW]))
def test_pause_of_a_user_ends_when_the_share_is_enough(steps: list[tuple[str, int, float]], kind: WorkKind) -> None:
    shares, now_s = UserShares(RATE), 0.0
    for uid, count, pause_s in steps:
        now_s += pause_s
        above = shares.split(intents(uid, count), now_s)[1]
        if not above:
            continue
        shares.pause(kind, above, now_s)
        assert shares.is_paused(kind, uid, now_s) and not shares.is_paused(WorkKind.MAIL, uid, now_s)
        assert not shares.is_paused(kind, "carol", now_s)
        now_s += shares.wait_s(uid, "fcm", count, now_s) + 1e-5
        assert not shares.is_paused(kind, uid, now_s) and shares.split(above, now_s) == (above, [])


@given(steps=STEPS, most=st.integers(1, 5_000))
def test_turns_above_the_share_have_its_rate(steps: list[tuple[str, int, float]], most: int) -> None:
    shares, now_s, waiting = UserShares(RATE), 0.0, dict[str, float]()
    for uid, count, pause_s in steps:
        now_s += pause_s
        turn_s = shares.turn_s(uid, "webhook", count, most, now_s)
        waiting[uid] = min(max(waiting.get(uid, 0.0), now_s) + count / RATE, now_s + most / RATE)
        assert abs(now_s + turn_s - waiting[uid]) < 1e-3
        assert shares.wait_s(uid, "webhook", BURST, now_s) == 0.0, "the share itself is not used"


def test_turns_are_within_an_hour() -> None:
    assert UserShares(0.001).turn_s("alice", "webhook", 100, 5_000, 0.0) == 3_600.0


def test_channels_have_separate_shares() -> None:
    shares = UserShares(RATE)
    shares.split(intents("alice", BURST), 0.0)

    assert shares.split(intents("alice", 1, "email"), 0.0)[1] == []


def test_remembered_buckets_are_bounded() -> None:
    shares = UserShares(RATE)
    for n in range(MAX_BUCKETS + 10):
        shares.split(intents(f"u{n}", 1), 0.0)

    assert shares.remembered == MAX_BUCKETS
