"""Sockets for a load that must cost little CPU: blocking set-up, then bytes."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from typing import Any, BinaryIO
from urllib.parse import urlsplit

MASKED = b"\0\0\0\0"
"""A mask of zeros: legal, and free of charge."""


def address(url: str) -> tuple[str, int]:
    """Return host and port of a URL."""
    place = urlsplit(url)
    return str(place.hostname), int(place.port or 80)


def open_device(url: str, token: str, hello: dict[str, Any] | None = None) -> tuple[socket.socket, dict[str, Any]]:
    """Connect a device, send hello, and read its sync object; return the socket and that object."""
    device = socket.create_connection(address(url), timeout=30)
    device.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    device.sendall(upgrade_request(token))
    received = b""
    while b"\r\n\r\n" not in received:
        received += _more(device)
    head, _, rest = received.partition(b"\r\n\r\n")
    if b" 101 " not in head.split(b"\r\n")[0]:
        raise ConnectionError(head.decode("utf-8", "replace"))
    device.sendall(client_frame({"hello": hello or {}}))
    buffer = Frames()
    while True:
        for text in buffer.feed(rest):
            frame = json.loads(text)
            if "sync" in frame:
                return device, frame
        rest = _more(device)


def upgrade_request(token: str) -> bytes:
    """Return the request that opens the WebSocket of a device."""
    request = (
        "GET /v1/connect HTTP/1.1\r\nHost: bench\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n"
        f"Sec-WebSocket-Protocol: gregor.v1\r\nAuthorization: Bearer {token}\r\n\r\n"
    )
    return request.encode()


def client_frame(document: dict[str, Any]) -> bytes:
    """Return a text frame as a client sends it."""
    text = json.dumps(document, separators=(",", ":")).encode()
    if len(text) < 126:
        return bytes([0x81, 0x80 | len(text)]) + MASKED + text
    return bytes([0x81, 0xFE]) + len(text).to_bytes(2, "big") + MASKED + text


class ServerClosed(ConnectionError):
    """The server sent a close frame. ``code``: 1005 without one."""

    def __init__(self, payload: bytes) -> None:
        super().__init__(f"closed: {payload!r}")
        self.code = int.from_bytes(payload[:2], "big") if len(payload) >= 2 else 1005
        self.reason = payload[2:].decode("utf-8", "replace")


class Frames:
    """Parser that cuts the bytes of a server into frames."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Return the payloads of the complete frames. Raises ``ServerClosed`` at a close frame."""
        data = self._rest + data if self._rest else data
        at, end = 0, len(data)
        while end - at >= 2:
            size, start = data[at + 1], at + 2
            if size == 126:
                size, start = int.from_bytes(data[at + 2 : at + 4], "big"), at + 4
            elif size == 127:
                size, start = int.from_bytes(data[at + 2 : at + 10], "big"), at + 10
            if start + size > end:
                break
            if data[at] & 0x0F == 8:
                raise ServerClosed(data[start : start + size])
            yield data[start : start + size]
            at = start + size
        self._rest = data[at:]


def resp(*words: bytes | str | int) -> bytes:
    """Encode a command in the Redis protocol."""
    raw = [word if isinstance(word, bytes) else str(word).encode() for word in words]
    return b"*%d\r\n" % len(raw) + b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in raw)


def info(url: str, section: str) -> dict[str, str]:
    """Read a section of INFO."""
    with socket.create_connection(address(url), timeout=10) as connection:
        connection.sendall(resp("INFO", section))
        text = _more(connection)
        size = int(text[1 : text.index(b"\r\n")])
        while len(text) < size:
            text += _more(connection)
    found = {}
    for line in text.decode().splitlines():
        name, colon, value = line.partition(":")
        if colon:
            found[name] = value
    return found


def redis_cpu_s(url: str) -> float:
    """Return CPU seconds of the main thread of a Redis."""
    used = info(url, "cpu")
    return float(used["used_cpu_user_main_thread"]) + float(used["used_cpu_sys_main_thread"])


def forget_durations(url: str) -> None:
    """Empty the slow log, and record commands from half a millisecond on: scripts, but not their short commands."""
    with socket.create_connection(address(url), timeout=10) as connection:
        for words in (("CONFIG", "SET", "slowlog-log-slower-than", 500), ("SLOWLOG", "RESET")):
            connection.sendall(resp(*words))
            _more(connection)


def longest_ms(url: str, command: str) -> float:
    """Return the longest duration of a command in the slow log."""
    with socket.create_connection(address(url), timeout=10) as connection, connection.makefile("rb") as lines:
        connection.sendall(resp("SLOWLOG", "GET", 128))
        entries = _reply(lines)
    return max((us for _, _, us, words, *_ in entries if words[0].decode().lower() == command), default=0) / 1_000


def body_of(size_bytes: int) -> dict[str, str]:
    """Return a body with that many characters of incompressible text."""
    return {"t": os.urandom(size_bytes).hex()[:size_bytes]}


def _reply(lines: BinaryIO) -> Any:
    """Read one reply: a number, a string or an array."""
    kind, rest = (line := lines.readline())[:1], line[1:-2]
    if kind == b"*":
        return [_reply(lines) for _ in range(int(rest))]
    if kind == b"$":
        return lines.read(int(rest) + 2)[:-2]
    return int(rest)


def _more(connection: socket.socket) -> bytes:
    data = connection.recv(1 << 20)
    if not data:
        raise ConnectionError("the server closed the connection")
    return data
