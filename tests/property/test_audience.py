"""The audience of a notification answers as a search through its filters would, in bounded time."""

from __future__ import annotations

import time

from hypothesis import given
from hypothesis import strategies as st

from gregor.core.categories.policy import CategoryPolicy, EmailPolicy, PushPolicy
from gregor.core.ids import is_allowed, normalize_prefixes
from gregor.core.items.sync import LiveItem, View
from gregor.core.notify.acknowledged_views import compact_view, shows_category
from gregor.core.notify.escalation import Audience, AudienceDevice, NotificationCause, decide_email, decide_pushes
from gregor.core.notify.intents import IntentKind

SEGMENTS = st.sampled_from(["a", "b", "ab", "a_b", "x" * 40])
CATEGORIES = st.lists(SEGMENTS, min_size=1, max_size=3).map(".".join)
FILTERS = st.none() | st.sets(CATEGORIES, max_size=12).map(normalize_prefixes)
DEVICES = ("phone", "desk")
VIEWS = st.builds(View, st.sampled_from(DEVICES), FILTERS).map(compact_view)
ATTEMPTS = 3
"""Other work on the machine can only make a measurement longer."""


@given(st.dictionaries(VIEWS, st.integers(1, 9), max_size=8), CATEGORIES)
def test_acknowledged_seq_is_that_of_the_views_that_show_a_category(acks: dict[View, int], category: str) -> None:
    audience = Audience({}, acks)

    for device in (*DEVICES, None):
        shown = [
            seq
            for view, seq in acks.items()
            if device in (None, view.device) and shows_category(view.category_filter, category)
        ]
        assert audience.acked_seq(device, category) == max(shown, default=0)


@given(st.lists(FILTERS, max_size=5), st.lists(FILTERS, max_size=5), CATEGORIES)
def test_category_is_shown_if_a_connection_in_the_foreground_sees_it(
    phone: list[tuple[str, ...] | None], desk: list[tuple[str, ...] | None], category: str
) -> None:
    filters = dict(zip(DEVICES, map(tuple, (phone, desk)), strict=True))
    devices = {name: AudienceDevice("fcm", each) for name, each in filters.items()}
    audience = Audience(devices, {}, foreground_filters=(*filters["phone"], *filters["desk"]))

    for device in DEVICES:
        assert audience.is_shown(category, device) == any(is_allowed(each, category) for each in filters[device])
    assert audience.is_shown(category) == (audience.is_shown(category, "phone") or audience.is_shown(category, "desk"))


def test_decisions_about_the_largest_audience_are_fast() -> None:
    """With 64 devices and long filters, a decision blocked the scheduler for 4 s, and a mail delivery for 63 s."""
    filters = [tuple(f"p{view}x{n:03}" for n in range(100)) for view in range(8)]
    names = [f"d{n:02}" for n in range(64)]
    acks = {compact_view(View(name, each)): 9 for name in names for each in filters}
    devices = {name: AudienceDevice("fcm", tuple(filters)) for name in names}
    policy = CategoryPolicy(push=PushPolicy(), email=EmailPolicy())
    items = [LiveItem(f"i{n}", f"c{n:03}" + ".c" * 62, None, 0, 5, None, (), b"{}") for n in range(100)]
    cause = NotificationCause(IntentKind.ITEM, 5, 0)

    def cpu_s() -> float:
        audience = Audience(devices, acks, foreground_filters=tuple(filters) * 64)
        began = time.thread_time()
        assert len(decide_pushes("alice", items[0], cause, policy, audience, 10).intents) == 64
        for item in items:
            assert decide_email("alice", item, cause, policy, audience, 10).intents
        return time.thread_time() - began

    assert min(cpu_s() for _ in range(ATTEMPTS)) < 0.2
