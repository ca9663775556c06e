"""Limits for responses of servers that may be hostile: their length, the length of a line, and no compression."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import Final

# In nested compression, a response of 5 KB took 3 GB of memory before its length was checked.
UNCOMPRESSED: Final = {"Accept-Encoding": "identity"}
"""Request header that asks for an uncompressed response."""


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
