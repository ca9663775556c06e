"""Limits of responses, and of the lines of streamed ones, of servers that may be hostile: length, no compression."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import Final

UNCOMPRESSED: Final = {"Accept-Encoding": "identity"}
"""Request header: a response of a few KB in nested compression could fill the memory before its length is checked."""


class ResponseTooLong(ValueError):
    """A response, or one line of it, exceeds its maximum length."""

    def __init__(self, max_bytes: int) -> None:
        super().__init__(f"more than {max_bytes >> 20} MiB at once")


def compression_fault(headers: Mapping[str, str]) -> str | None:
    """Return why a response must not be read: it is compressed. None if it is not. The headers ignore case."""
    encoding = headers.get("content-encoding", "")
    if encoding.strip().lower() in ("", "identity"):
        return None
    fix = "turn that off at the server or its proxy (nginx: gzip off)"
    return f"the response is compressed ({encoding[:32]!a}), although the request forbids it; {fix}"


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
