"""WebSocket frames, byte by byte (RFC 6455)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gregor_gateway.transports.ws_frames import (
    FrameError,
    FrameParser,
    IncomingMessage,
    Opcode,
    close_code,
    encode,
    encode_close,
    unmask,
)

KEY = b"\x01\x02\x03\x04"
MOST = 1_000


def masked(payload: bytes, first: int = 0x81, size: bytes | None = None) -> bytes:
    """Return a client frame; ``size`` replaces the minimal encoding of its length."""
    if size is None:
        length = len(payload)
        size = bytes([0x80 | length]) if length < 126 else b"\xfe" + length.to_bytes(2, "big")
    return bytes([first]) + size + KEY + unmask(payload, KEY)


@pytest.mark.parametrize(
    ("length", "head"),
    [
        (0, b"\x81\x00"),
        (125, b"\x81\x7d"),
        (126, b"\x81\x7e\x00\x7e"),
        (65_536, b"\x81\x7f" + (65_536).to_bytes(8, "big")),
    ],
)
def test_server_frame_has_minimal_head_and_no_mask(length: int, head: bytes) -> None:
    assert encode(b"x" * length) == head + b"x" * length


def test_close_frame_cuts_a_long_reason() -> None:
    assert encode_close(4001, "shutdown") == b"\x88\x0a\x0f\xa1shutdown"
    assert len(encode_close(4001, "x" * 300)) == 2 + 125


@given(st.binary(max_size=300))
def test_masking_twice_is_the_identity(payload: bytes) -> None:
    assert unmask(unmask(payload, KEY), KEY) == payload


@given(st.lists(st.binary(max_size=300), max_size=5), st.integers(1, 40))
def test_messages_do_not_depend_on_segmentation(payloads: list[bytes], cut: int) -> None:
    stream = b"".join(masked(payload) for payload in payloads)
    parser = FrameParser(MOST)

    found = [message for at in range(0, len(stream), cut) for message in parser.feed(stream[at : at + cut])]

    assert found == [IncomingMessage(Opcode.TEXT, payload) for payload in payloads]


def test_fragments_are_joined() -> None:
    parser = FrameParser(MOST)

    found = list(parser.feed(masked(b"on", 0x01) + masked(b"?", 0x89) + masked(b"e", 0x00) + masked(b"!", 0x80)))

    assert found == [IncomingMessage(Opcode.PING, b"?"), IncomingMessage(Opcode.TEXT, b"one!", tiny_fragments=2)]


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"\x81\x01x", 1002),  # not masked
        (masked(b"x", 0xC1), 1002),  # a reserved bit without an extension
        (masked(b"x", 0x83), 1002),  # an unknown opcode
        (masked(b"x", 0x80), 1002),  # a continuation without a first fragment
        (masked(b"x", 0x01) + masked(b"y", 0x81), 1002),  # a new message between fragments
        (masked(b"x", 0x09), 1002),  # a fragmented control frame
        (masked(b"x" * 126, 0x89), 1002),  # a control frame that is too long
        (masked(b"x" * (MOST + 1))[:8], 1009),  # too big, known from its head alone
        (masked(b"x" * 600, 0x01) + masked(b"y" * 600, 0x80), 1009),  # too big as a whole
        (b"\x81\xff" + (1 << 62).to_bytes(8, "big"), 1009),
        (b"\x81\xff" + (1 << 63).to_bytes(8, "big"), 1002),  # the most significant bit must be 0
        (masked(b"x", size=b"\xfe\x00\x01"), 1002),  # not the minimal length (RFC 6455, 5.2)
        (masked(b"x" * 126, size=b"\xff" + (126).to_bytes(8, "big")), 1002),
    ],
)
def test_invalid_frame_has_a_close_code(data: bytes, code: int) -> None:
    with pytest.raises(FrameError) as refused:
        list(FrameParser(MOST).feed(data))

    assert refused.value.code == code


@given(st.lists(st.binary(max_size=300), max_size=5), st.integers(1, 400))
def test_messages_before_a_bad_frame_are_found(payloads: list[bytes], cut: int) -> None:
    """The messages before an invalid frame do not depend on segmentation."""
    stream = b"".join(masked(payload) for payload in payloads) + masked(b"bad", 0xC1)
    parser = FrameParser(MOST)
    found: list[IncomingMessage] = []

    with pytest.raises(FrameError) as refused:
        for at in range(0, len(stream), cut):
            found.extend(parser.feed(stream[at : at + cut]))

    assert found == [IncomingMessage(Opcode.TEXT, payload) for payload in payloads]
    assert refused.value.code == 1002


def test_message_of_maximum_size_is_accepted() -> None:
    assert list(FrameParser(MOST).feed(masked(b"x" * MOST))) == [IncomingMessage(Opcode.TEXT, b"x" * MOST)]


@pytest.mark.parametrize(("payload", "code"), [(b"", 1005), (b"\x03\xe8", 1000), (b"\x0f\xa1bye", 4001)])
def test_close_frame_of_the_peer_is_parsed(payload: bytes, code: int) -> None:
    assert close_code(payload) == code


@pytest.mark.parametrize("payload", [b"\x03", b"\x03\xed", b"\x03\xee", b"\x00\x01", b"\x13\x88", b"\x03\xf7"])
def test_invalid_close_code_is_a_protocol_error(payload: bytes) -> None:
    with pytest.raises(FrameError) as refused:
        close_code(payload)

    assert refused.value.code == 1002


def test_close_reason_must_be_utf8() -> None:
    with pytest.raises(FrameError) as refused:
        close_code(b"\x03\xe8bye \xff")

    assert refused.value.code == 1007
