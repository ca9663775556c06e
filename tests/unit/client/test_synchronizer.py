"""The synchronizer sends waiting messages when the wait that the server requested is over."""

import copy
import itertools

from hypothesis import example, given
from hypothesis import strategies as st

from gregor.client.messages import creation
from gregor.client.synchronizer import Frame, Synchronizer

NOW_US = 1_700_000_000_000_000
SYNC = {"system": "gregor", "sync": "full", "cursor": "abcdef-1", "digest": "0" * 64, "body": {"create": {}}}

STEPS = st.lists(
    st.tuples(
        st.sampled_from(["put", "receipt", "wait", "reconnect", "lose", "timer", "time"]),
        st.integers(1, 2_000) | st.integers(1, 4_000_000),
    ),
    max_size=40,
)
"""Actions with a number of milliseconds: the wait that the server asks for, or the time that passes."""


def synced() -> Synchronizer:
    numbers = itertools.count(1)
    synchronizer = Synchronizer(lambda: f"m{next(numbers)}")
    synchronizer.opened()
    synchronizer.receive(SYNC, NOW_US)
    return synchronizer


def refs(frames: list[Frame]) -> list[int]:
    return [frame["ref"] for frame in frames if "ref" in frame]


def act(synchronizer: Synchronizer, action: str, ms: int, sent: list[int], now_us: int) -> int:
    """Do one action at `now_us`, and return the time after it. `sent`: refs of the messages in flight."""
    match action:
        case "put":
            synchronizer.put(creation("a", "mail"), now_us)
        case "receipt" if sent:
            sent += refs(synchronizer.receive({"ref": sent.pop(0), "receipt": {"unchanged": True}}, now_us).send)
        case "wait" if sent:
            problem = {"code": "rate_limited", "retry_after_ms": ms}
            sent += refs(synchronizer.receive({"ref": sent.pop(0), "problem": problem}, now_us).send)
        case "reconnect":
            sent.clear()
            synchronizer.opened()
            sent += refs(synchronizer.receive(SYNC, now_us).send)
        case "lose":
            synchronizer.closed()
        case "timer" if (at_us := synchronizer.next_tick_us(now_us)) is not None:
            return max(now_us, at_us - ms % 3)  # timers may fire a little early
        case "time":
            return now_us + ms * 1_000
    return now_us


@given(STEPS)
@example([("put", 1), ("wait", 400), ("timer", 1), ("timer", 3)])
def test_next_tick_is_not_later_than_the_end_of_the_wait(steps: list[tuple[str, int]]) -> None:
    synchronizer, now_us = synced(), NOW_US
    sent: list[int] = []
    for action, ms in steps:
        now_us = act(synchronizer, action, ms, sent, now_us)
        # As `Device` does: a tick after each frame, each message and each timer, and then a timer for the next one.
        sent += refs(synchronizer.tick(now_us))
        end_us = now_us + round(synchronizer.outbox.hold_s(now_us) * 1_000_000)
        if copy.deepcopy(synchronizer).sendable(end_us):
            at_us = synchronizer.next_tick_us(now_us)
            assert at_us is not None
            assert now_us < at_us <= end_us
