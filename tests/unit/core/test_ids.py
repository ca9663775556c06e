"""Sets of category prefixes: the fewest that cover the same, found in time that grows with their number."""

from __future__ import annotations

import time

from hypothesis import given
from hypothesis import strategies as st

from gregor.core.ids import covers, is_allowed, normalize_prefixes

SEGMENTS = st.lists(st.sampled_from(["a", "b", "ab", "a-b", "0"]), min_size=1, max_size=4)
PREFIXES = st.lists(SEGMENTS.map(".".join), max_size=12)


@given(PREFIXES, SEGMENTS.map(".".join))
def test_the_fewest_prefixes_cover_the_same_and_none_covers_another(prefixes: list[str], name: str) -> None:
    fewest = normalize_prefixes(prefixes)

    assert fewest is not None
    assert is_allowed(fewest, name) == is_allowed(tuple(prefixes), name)
    assert list(fewest) == sorted(set(fewest))
    assert not any(covers(one, other) for one in fewest for other in fewest if one != other)
    assert normalize_prefixes([*prefixes, ""]) is None


def test_many_prefixes_take_no_time_that_grows_with_their_square() -> None:
    """A token may name thousands: each pair of these would be 200 million comparisons, half a minute at the least."""
    many = [f"a{n}.b" for n in range(20_000)]
    began_s = time.process_time()

    assert normalize_prefixes(many) == tuple(sorted(many))
    assert time.process_time() - began_s < 5
