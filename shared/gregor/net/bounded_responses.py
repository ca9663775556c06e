"""Limits for responses of servers that may be hostile: length, length of a line, no compression, time of parsing.

Importing this module replaces two patterns of h11 (see `parse_in_linear_time`). `gregor.net.outgoing` imports it, and
makes all HTTP clients.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Mapping
from typing import Final

from h11 import _readers

# In nested compression, a response of 5 KB took 3 GB of memory before its length was checked.
UNCOMPRESSED: Final = {"Accept-Encoding": "identity"}
"""Request header that asks for an uncompressed response."""


# The patterns of h11 0.16, and the same without two repetitions that can match the same spaces. With them, a line of
# 52,000 spaces took 5 s, during which no other task of the process runs and no timeout ends.
_QUADRATIC_HEADER: Final = rb":[ \t]*(?P<field_value>"
_LINEAR_HEADER: Final = rb":[ \t]*+(?P<field_value>"
_QUADRATIC_CHUNK: Final = rb"(?P<chunk_ext>;.*)?[ \t]*\r\n"
_LINEAR_CHUNK: Final = rb"(?:(?P<chunk_ext>;.*)|[ \t]*+)\r\n"


def parse_in_linear_time() -> None:
    """Let h11, which parses all responses of httpx and httpcore, take linear time for each line.

    The patterns match the same lines as before. Those of another version of h11 stay as they are, unless they have the
    same parts; tests/unit/net/test_bounded_responses.py fails if the time of a version is not linear.
    """
    header, chunk = _readers.header_field_re.pattern, _readers.chunk_header_re.pattern
    _readers.header_field_re = re.compile(header.replace(_QUADRATIC_HEADER, _LINEAR_HEADER))
    _readers.chunk_header_re = re.compile(chunk.replace(_QUADRATIC_CHUNK, _LINEAR_CHUNK))


parse_in_linear_time()


class ResponseTooLong(ValueError):
    """A response, or one line of it, exceeds its maximum length."""

    def __init__(self, max_bytes: int) -> None:
        super().__init__(f"more than {max_bytes >> 20} MiB at once")


def compression_fault(headers: Mapping[str, str]) -> str | None:
    """Return the text of an error if a response is compressed, else None. `headers` must ignore case."""
    encoding = headers.get("content-encoding", "")
    if encoding.strip().lower() in ("", "identity"):
        return None
    fix = "turn compression off at the server or its proxy (nginx: gzip off)"
    return f"the response is compressed ({encoding[:32]!a}), although the request forbids that; {fix}"


async def read_bounded(chunks: AsyncIterator[bytes], max_bytes: int) -> bytes:
    """Return the content of a response. Raises ``ResponseTooLong``."""
    content = bytearray()
    async for chunk in chunks:
        content += chunk
        if len(content) > max_bytes:
            raise ResponseTooLong(max_bytes)
    return bytes(content)


class LineSplitter:
    """Splits the chunks of a long response into lines of at most ``max_bytes``."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._parts: list[bytes] = []
        self._size = 0

    def feed(self, chunk: bytes) -> list[bytes]:
        """Return the lines that a chunk completes. Raises ``ResponseTooLong`` for a line that is too long."""
        # Not splitlines: it also splits at characters that a JSON text may contain, such as U+2028.
        *whole, rest = chunk.split(b"\n")
        if whole:
            whole[0] = b"".join([*self._parts, whole[0]])
            self._parts, self._size = [], 0
        self._parts.append(rest)
        self._size += len(rest)
        if self._size > self._max_bytes:
            raise ResponseTooLong(self._max_bytes)
        return whole
