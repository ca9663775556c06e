"""HPACK header blocks of APNs requests: any decoder can read them."""

from __future__ import annotations

from hpack import Decoder, NeverIndexedHeaderTuple
from hypothesis import example, given
from hypothesis import strategies as st

from gregor_delivery.channels.apns.headers import ApnsEncoder

NAMES = st.sampled_from([b":path", b":authority", b"authorization", b"apns-topic", b"apns-id", b"x" * 200])
VALUES = st.one_of(st.sampled_from([b"", b"10", b"v" * 300, bytes(range(33, 127))]), st.binary(max_size=3))
ALIKE = st.tuples(NAMES, VALUES)
OF_ONE = st.builds(NeverIndexedHeaderTuple, NAMES, VALUES)
BLOCKS = st.lists(st.one_of(ALIKE, OF_ONE), max_size=12)
TOPIC = (b"apns-topic", b"com.example")
STEPS = st.lists(st.one_of(BLOCKS, st.sampled_from([0, 100, 500, 4_096])), max_size=20)


@example([[TOPIC], [TOPIC], 0, [TOPIC], 4_096, [TOPIC], [TOPIC]])
@example([0, [TOPIC], 100, 100, [TOPIC], [TOPIC]])
@given(STEPS)
def test_header_blocks_are_decodable_for_any_table(steps: list[int | list[tuple[bytes, bytes]]]) -> None:
    encoder, decoder = ApnsEncoder(), Decoder()
    for step in steps:
        if isinstance(step, int):
            encoder.header_table_size = step
            continue
        found = decoder.decode(encoder.encode(step), raw=True)
        assert [tuple(header) for header in found] == [tuple(header) for header in step]


def test_unique_headers_are_never_indexed() -> None:
    encoder, decoder = ApnsEncoder(), Decoder()
    secret = NeverIndexedHeaderTuple(b":path", b"/3/device/a11ce0")

    [found] = decoder.decode(encoder.encode([secret]), raw=True)

    assert isinstance(found, NeverIndexedHeaderTuple)
    assert list(encoder.header_table.dynamic_entries) == list(decoder.header_table.dynamic_entries) == []


def test_constant_headers_take_one_byte() -> None:
    encoder = ApnsEncoder()
    alike = [(b"authorization", b"bearer x"), (b"apns-topic", b"com.example"), (b":method", b"POST")]

    first, second, third = (len(encoder.encode(alike)) for _ in range(3))

    assert first > second == third == len(alike)
