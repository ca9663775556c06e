"""Fuzz targets: functions of any bytes that check what a parser promises for every input.

Each raises AssertionError if a promise is broken, and any other exception if the parser itself fails.
"""

from __future__ import annotations

import asyncio
import json
import re
import struct
from collections.abc import Callable
from contextlib import suppress

from gregor.auth.device_tokens import TokenVerifier
from gregor.config.settings import Settings
from gregor.core.errors import Problem
from gregor.core.items.announcement import decode_announcement, decode_fast
from gregor.core.items.codec import unpack_item
from gregor.core.items.sync import View, parse_cursor
from gregor.core.json_text import canonical_json, decode_json
from gregor.core.limits import Limits
from gregor.core.messages.parse import parse_message
from gregor.core.messages.parse_fast import parse_fast
from gregor.redis.url import RedisUrl
from gregor.store.contract.store import UnreadableValue
from gregor.store.redis.users.record_codec import decode_external, decode_gone, decode_live
from gregor_gateway.protocol.client_frames import read_frame, read_loosely, read_ref
from gregor_gateway.transports.http1 import MAX_HEAD_BYTES, RequestRefused, split_head
from gregor_gateway.transports.websocket import accept_key
from gregor_gateway.transports.ws_frames import FrameError, FrameParser, IncomingMessage, Opcode, close_code

LIMITS = Limits()
NOW_US = 1_457_056_447_000_000
SECRET = "0123456789abcdef0123456789abcdef"
"""The secret that signed the seeds of ``device_token``."""
MAX_MESSAGE = 1_000
MALFORMED = (ValueError, IndexError, KeyError, struct.error, UnreadableValue)
"""Errors of a codec for bytes that the store never wrote."""


# ---- from clients


def ws_frames(data: bytes) -> None:
    """The messages and the error of a stream do not depend on its segmentation."""
    cut = 1 + (data[0] if data else 0) % 7
    whole = _messages([data])

    assert _messages([data[at : at + cut] for at in range(0, len(data), cut)]) == whole
    for message in whole[0]:
        assert len(message.payload) <= MAX_MESSAGE
        if message.opcode is Opcode.CLOSE:
            with suppress(FrameError):
                assert 1000 <= close_code(message.payload) <= 4999


def _messages(pieces: list[bytes]) -> tuple[list[IncomingMessage], int | None]:
    parser, found = FrameParser(MAX_MESSAGE), list[IncomingMessage]()
    try:
        for piece in pieces:
            found.extend(parser.feed(piece))
    except FrameError as error:
        return found, error.code
    return found, None


def client_frame(data: bytes) -> None:
    """A text is a frame or a problem, and the problem and the ref can be sent."""
    try:
        document = decode_json(data, LIMITS)
    except Problem as problem:
        _, ref = read_loosely(data)
        json.dumps([problem.document("id"), ref]).encode()
        return
    try:
        ref = read_ref(document)
        json.dumps(ref).encode()
        read_frame(document)
    except Problem as problem:
        json.dumps(problem.document("id")).encode()


def http_head(data: bytes) -> None:
    """A head is incomplete, refused, or free of control characters; what follows it changes nothing."""
    try:
        split = split_head(data)
    except RequestRefused as refused:
        assert refused.response.startswith((b"HTTP/1.1 400 ", b"HTTP/1.1 431 "))
        return
    if split is None:
        assert len(data) <= MAX_HEAD_BYTES + 4
        return
    head, rest = split
    assert data.endswith(rest)
    assert split_head(data + b"GET / HTTP/1.1\r\n\r\n") == (head, rest + b"GET / HTTP/1.1\r\n\r\n")
    assert not set("\r\n\0").intersection(head.method + head.path + "".join(head.headers.values()))
    assert head.is_http10 or head.header("host") or "host" in head.headers
    with suppress(ValueError):
        accept_key(head)


def json_fast(data: bytes) -> None:
    """The fast path accepts only what the general path accepts, with the same result; canonical JSON is stable."""
    fast = parse_fast(data, LIMITS)
    try:
        document = decode_json(data, LIMITS, has_stand_ins=True)
        uid = document.pop("uid", None) if isinstance(document, dict) else None
        general = uid, parse_message(document, LIMITS)
    except Problem:
        assert fast is None
    else:
        assert fast in (None, general)
    with suppress(Problem):
        text = canonical_json(decode_json(data, LIMITS))
        assert canonical_json(decode_json(text, LIMITS)) == text


def cursor(data: bytes) -> None:
    """A cursor is void, or is written as it was read."""
    text = data.decode("latin-1")
    found = parse_cursor(text)

    assert found is None or (str(found) == text and 0 <= found.seq < 10**13)


def device_token(data: bytes) -> None:
    """A token is refused, or has exactly the claims that were signed."""
    verifier = TokenVerifier(Settings.model_validate({"token_secret": SECRET}))
    with suppress(Problem):
        caller = asyncio.run(verifier.verify(data.decode("utf-8", "replace"), NOW_US))
        assert (caller.uid, caller.device) == ("alice", "phone")


# ---- from Redis and settings


def announcement(data: bytes) -> None:
    """A payload is refused, or both decoders agree on it."""
    try:
        general = decode_announcement(data)
    except MALFORMED:
        return
    if general.encode() != data:
        return  # no script writes it: flags beyond the known ones, or a length beyond the end
    packed = [entry.packed for entry in general.entries if entry.packed is not None]
    try:
        frame = general.frame(View("", None))
        is_whole = all(each[:1] == b"L" and unpack_item(each).body for each in packed)
    except MALFORMED:
        return
    fast = decode_fast(data)
    if fast is not None and is_whole:  # the script publishes whole items only
        assert (fast.epoch, fast.seq) == (general.epoch, general.seq)
        assert (fast.before, fast.after) == (general.before, general.after)
        assert fast.frame == frame


def record(data: bytes) -> None:
    """Any bytes are a record or an error; a decoded item has its JSON."""
    for decode in (
        lambda: unpack_item(data).json(),
        lambda: decode_live("id", 1, data).stored(),
        lambda: decode_gone("id", data).entry(View("phone")),
        lambda: decode_external(data),
    ):
        with suppress(*MALFORMED):
            decode()


def redis_url(data: bytes) -> None:
    """A URL is an address without credentials in its text, or an error without them."""
    text = data.decode("utf-8", "surrogateescape").replace("hunter2", "")
    for url in (text, re.sub(r"^([a-z+]+://)", r"\1user:hunter2@", text)):
        try:
            shown = str(RedisUrl.parse(url)) + repr(RedisUrl.parse(url))
        except ValueError as error:
            shown = str(error) if error.__suppress_context__ else f"{error} {error.__context__}"
        assert "hunter2" not in shown


TARGETS: dict[str, Callable[[bytes], None]] = {
    target.__name__: target
    for target in (
        ws_frames,
        client_frame,
        http_head,
        json_fast,
        cursor,
        device_token,
        announcement,
        record,
        redis_url,
    )
}
