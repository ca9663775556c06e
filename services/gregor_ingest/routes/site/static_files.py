"""Static files: gzipped for clients that accept it, and revalidated by an ``ETag``.

Only for public files that are equal for all users. A compressed response with data of a user could leak a secret by its
size (BREACH), so no other response is compressed.
"""

from __future__ import annotations

import asyncio
import gzip
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from fastapi import Request, Response

from gregor_ingest.request import matches_etag

IMMUTABLE: Final = {"Cache-Control": "public, max-age=31536000, immutable"}
"""The header of a file whose name has a hash of its content: caches may keep it for ever."""

_ACCEPTED: Final = re.compile(r"([\w*-]+)\s*(?:;\s*q\s*=\s*([01](?:\.\d{0,3})?))?")
_MOST_ENCODINGS: Final = 20
"""Elements of ``Accept-Encoding``; no browser sends more. 60 KB of them would take 17 ms, before any token is known."""
_MOST_CHARACTERS: Final = 64
"""Of an element."""


@dataclass(slots=True)
class StaticFile:
    """A file of this version of Gregor. ``name`` changes with the content, and is the base of its ``ETag``."""

    name: str
    content: bytes
    _gzipped: asyncio.Task[bytes] | None = field(default=None, init=False, repr=False)

    async def response(self, request: Request, headers: Mapping[str, str]) -> Response:
        """Return the file, gzipped if the client accepts gzip and that is smaller; 304 if the client has it."""
        content, headers = self.content, {**headers, "Vary": "Accept-Encoding", "ETag": f'"{self.name}"'}
        if accepts_gzip(request.headers.getlist("accept-encoding")):
            gzipped = await self._compressed()
            if len(gzipped) < len(content):
                # The encodings are two representations, with different strong ETags (RFC 9110, section 8.8.3.3).
                content = gzipped
                headers |= {"Content-Encoding": "gzip", "ETag": f'"{self.name}.gz"'}
        if matches_etag(request.headers.getlist("if-none-match"), headers["ETag"]):
            return Response(status_code=304, headers=headers)
        return Response(content, headers=headers)

    async def _compressed(self) -> bytes:
        task = self._gzipped
        if task is None or (task.done() and (task.cancelled() or task.exception() is not None)):
            # In a thread, because Swagger UI takes 0.3 s, and once for all requests that wait. Without a time, so all
            # replicas send equal bytes.
            task = asyncio.create_task(asyncio.to_thread(gzip.compress, self.content, 9, mtime=0))
            self._gzipped = task
        return await asyncio.shield(task)


def accepts_gzip(values: list[str]) -> bool:
    """Return whether ``Accept-Encoding`` permits gzip and does not prefer the plain file (RFC 9110, 12.5.3)."""
    weights: dict[str, float] = {}
    elements = ",".join(values).split(",", _MOST_ENCODINGS)
    if len(elements) > _MOST_ENCODINGS:
        return False
    for element in elements:
        if len(element) <= _MOST_CHARACTERS and (found := _ACCEPTED.fullmatch(element.strip())):
            weights[found[1].lower()] = min(1.0, float(found[2] or 1))
    gzip_weight = weights.get("gzip", weights.get("x-gzip", weights.get("*", 0.0)))
    return gzip_weight > 0 and gzip_weight >= weights.get("identity", 0.0)
