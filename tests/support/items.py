"""Hypothesis strategies for items of every shape, as the planner makes them from backend messages."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from gregor.core.messages.model import Creation
from tests.support.builders import NOW, item, message, planned

CATEGORIES = st.sampled_from(["user", "user.joined", "a" * 128])
_TIMES = st.integers(0, 2**33 - 1) | st.floats(0, 2.0**33 - 1) | st.integers(0, 10**6).map(lambda s: f"+{s}")
_SAID: list[Any] = [None, "", "€", "\U0001f389", 1.5, 0, [], {}, {"b": [1, {"a": None}], "a": "x" * 300}]


@st.composite
def creations(draw: st.DrawFn, categories: st.SearchStrategy[str] = CATEGORIES) -> Creation:
    """Generate a creation at ``NOW``."""
    sent = item(
        draw(categories),
        created=draw(st.none() | st.integers(0, NOW) | st.floats(0, NOW)),
        expires=draw(st.none() | _TIMES),
        remind_at=draw(st.none() | st.lists(_TIMES, max_size=3)),
        for_device=draw(st.sampled_from([None, "*", "phone", "d" * 128])),
        body=draw(st.sampled_from(_SAID)),
    )
    (made,) = planned(message({draw(st.sampled_from(["a", "x" * 128])): sent})).creations
    return made
