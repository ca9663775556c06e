"""Headers of requests, as one mapping."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gregor.web.request import headers_of

NAMES = st.sampled_from([b"a", b"b", b"cookie"])


class CountedValue(bytes):
    """A value that counts how often it is concatenated with ``+``, which copies it."""

    copies = 0

    def __add__(self, other: bytes) -> CountedValue:  # type: ignore[override]
        CountedValue.copies += 1
        return CountedValue(bytes(self) + other)

    def __radd__(self, other: bytes) -> CountedValue:
        CountedValue.copies += 1
        return CountedValue(other + bytes(self))


@given(st.lists(st.tuples(NAMES, st.binary(max_size=3))))
def test_repeated_headers_are_joined(fields: list[tuple[bytes, bytes]]) -> None:
    headers = headers_of({"headers": fields})

    for name in {name for name, _ in fields}:
        between = b"; " if name == b"cookie" else b", "
        assert headers.pop(name) == between.join(value for each, value in fields if each == name)
    assert headers == {}


def test_repeated_headers_are_joined_once() -> None:
    CountedValue.copies = 0
    headers = headers_of({"headers": [(b"a", CountedValue(b"b"))] * 10_000})

    assert headers == {b"a": b", ".join([b"b"] * 10_000)}
    assert CountedValue.copies == 0
