"""The time in which h11 parses the lines of a hostile response; its patterns match the same lines as before."""

from __future__ import annotations

import re
import time

import h11
import pytest
from h11 import _abnf, _readers
from hypothesis import given
from hypothesis import strategies as st

from gregor.net import bounded_responses

SPACES = b" " * 52_000
HEAD = b"HTTP/1.1 200 OK\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
LINES = {
    "header": HEAD + b"X:" + SPACES + b"\0\r\n\r\n",
    "header with tabs": HEAD + b"X:" + b" \t" * 26_000 + b"\0\r\n\r\n",
    "trailer": CHUNKED + b"0\r\nX:" + SPACES + b"\0\r\n\r\n",
    "chunk extension": CHUNKED + b"1;" + SPACES + b"\n\r\n",
    "chunk size": CHUNKED + b"1" + SPACES + b"\n\r\n",
    "reason": b"HTTP/1.1 200 " + SPACES + b"\0\r\n\r\n",
    "value": HEAD + b"X:" + b"a " * 26_000 + b"\0\r\n\r\n",
}
MAX_LINE_S = 0.25
"""CPU time of a line. It takes 5 ms, and took 5 s (chunk extension: 1.5 s)."""


@pytest.mark.parametrize("kind", list(LINES))
def test_line_of_spaces_is_refused_in_linear_time(kind: str) -> None:
    assert bounded_responses.UNCOMPRESSED  # the modules with an HTTP client import it
    connection = h11.Connection(h11.CLIENT)
    connection.send(h11.Request(method="GET", target="/", headers=[("Host", "receiver")]))
    connection.send(h11.EndOfMessage())
    connection.receive_data(LINES[kind])

    began = time.thread_time()
    with pytest.raises(h11.RemoteProtocolError):
        while connection.next_event() is not h11.NEED_DATA:
            pass

    assert time.thread_time() - began < MAX_LINE_S


@given(
    st.lists(st.sampled_from([b" ", b"\t", b"a", b":", b"\r", b"\n", b"\0", b";", b"1", b"\xff"]), max_size=9),
    st.sampled_from([b"", b"X:", b"1", b"1;"]),
    st.sampled_from([b"", b"\r\n"]),
)
def test_patterns_match_the_same_lines_as_those_of_h11(middle: list[bytes], begin: bytes, end: bytes) -> None:
    line = begin + b"".join(middle) + end
    for own, original, group in (
        (_readers.header_field_re, _abnf.header_field, "field_value"),
        (_readers.chunk_header_re, _abnf.chunk_header, "chunk_size"),
    ):
        found, expected = own.fullmatch(line), re.compile(original.encode()).fullmatch(line)
        assert (found and found[group]) == (expected and expected[group])
