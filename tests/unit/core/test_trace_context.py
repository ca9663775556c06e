"""Trace contexts: W3C header, packed form, and announcements that carry one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gregor.core.items.announcement import (
    HAS_TRACE,
    Announcement,
    AnnouncementEntry,
    AnnouncementKind,
    decode_announcement,
    decode_fast,
)
from gregor.core.trace_context import PACKED_SIZE, TraceContext, parse_traceparent, unpack_trace

SAMPLE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
contexts = st.builds(
    TraceContext,
    st.binary(min_size=16, max_size=16).filter(any),
    st.binary(min_size=8, max_size=8).filter(any),
    st.booleans(),
)


announcements = st.builds(
    Announcement,
    kind=st.sampled_from([AnnouncementKind.UPDATE, AnnouncementKind.RESET, AnnouncementKind.REMIND]),
    epoch=st.binary(min_size=3, max_size=3),
    seq=st.integers(1, 2**40 - 1),
    before=st.binary(min_size=8, max_size=8),
    after=st.binary(min_size=8, max_size=8),
    sender=st.sampled_from(["", "phone"]),
    is_new_epoch=st.booleans(),
    entries=st.just((AnnouncementEntry("aa", "user.joined", None),)),
    spread_s=st.integers(0, 65_535),
    remind_at_us=st.integers(0, 2**50),
)


@given(contexts)
def test_packed_context_and_header_are_read_back(context: TraceContext) -> None:
    assert len(context.pack()) == PACKED_SIZE
    assert unpack_trace(context.pack()) == context
    assert parse_traceparent(context.traceparent) == context


@pytest.mark.parametrize(
    "text",
    [
        "",
        SAMPLE.upper(),
        SAMPLE + "-x",
        "ff" + SAMPLE[2:],
        SAMPLE[:-1],
        SAMPLE.replace("0af7651916cd43dd8448eb211c80319c", "0" * 32),
        SAMPLE.replace("b7ad6b7169203331", "0" * 16),
    ],
)
def test_malformed_header_is_ignored(text: str) -> None:
    assert parse_traceparent(text) is None


def test_header_of_a_later_version_is_read() -> None:
    assert parse_traceparent("01" + SAMPLE[2:] + "-more") == parse_traceparent(SAMPLE)


@given(announcements, contexts)
def test_context_is_appended_to_announcements(announcement: Announcement, context: TraceContext) -> None:
    plain = announcement.encode()
    announcement.trace = context.pack()
    traced = announcement.encode()

    assert len(traced) == len(plain) + PACKED_SIZE
    assert traced[:10] + bytes([traced[10] & ~HAS_TRACE]) + traced[11:-PACKED_SIZE] == plain
    assert decode_announcement(traced).trace == context.pack()
    assert decode_announcement(plain).trace == b""
    assert decode_fast(traced) is None


@given(announcements, contexts)
def test_reader_without_the_flag_ignores_the_context(announcement: Announcement, context: TraceContext) -> None:
    """An older gateway reads the same announcement: it uses lengths, and never the end of the payload."""
    plain = decode_announcement(announcement.encode())
    announcement.trace = context.pack()
    read = decode_announcement(announcement.encode())
    read.trace = b""

    assert read == plain


def test_external_messages_carry_no_context() -> None:
    """Their body reaches to the end of the payload: an older gateway would send the context to devices."""
    external = Announcement(AnnouncementKind.EXTERNAL, b"abc", 1, bytes(8), bytes(8), system="kbfs", body=b"{}")
    plain = external.encode()
    external.trace = bytes(range(PACKED_SIZE))

    assert external.encode() == plain
