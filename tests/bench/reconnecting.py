"""Devices that reconnect as the protocol requires, with little CPU: asyncio protocols instead of a client library."""

from __future__ import annotations

import asyncio
import re
import ssl
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Final, cast

import msgspec

from gregor.client.mirror import Mirror
from gregor.client.reconnect import DeviceTimings, ReconnectDelays
from gregor.history.recorder import HistoryRecorder
from tests.bench.sockets import Frames, ServerClosed, client_frame, upgrade_request
from tests.bench.sockets import address as address_of

OPEN_S: Final = 10.0
"""How long a device waits for the end of the handshake."""
UNSAFE: Final = ssl._create_unverified_context()
_RETRY_AFTER = re.compile(rb"(?i)\r\nretry-after: (\d+)")


@dataclass
class Outage:
    """A time in which a device had no connection, or no sync object yet. ``kind``: of the sync object that ended it."""

    gone_s: float
    back_s: float
    kind: str


@dataclass
class ReconnectLog:
    """The observations of the devices of a process. All times are of the monotonic clock of the machine."""

    recorder: HistoryRecorder | None = None
    outages: list[Outage] = field(default_factory=list)
    latencies: list[tuple[float, float]] = field(default_factory=list)
    """For each live item: when it came to a device that has kept its connection, and its age in seconds."""
    ends: Counter[str] = field(default_factory=Counter)
    """The ends of connections: close codes, statuses of refused handshakes, ``hint``, or ``lost``."""


class Link(asyncio.Protocol):
    """One connection of a device, from the upgrade to its end."""

    def __init__(self, device: ReconnectingDevice) -> None:
        self._device = device
        self._transport: asyncio.Transport | None = None
        self._head = b""
        self._frames: Frames | None = None
        self._timeout = asyncio.get_running_loop().call_later(OPEN_S, self.close)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Ask for the upgrade."""
        self._transport = cast("asyncio.Transport", transport)  # that of uvloop is not a subclass
        self._transport.write(upgrade_request(self._device.token))

    def data_received(self, data: bytes) -> None:
        """Read the response to the upgrade, then frames."""
        if self._frames is None:
            self._head += data
            head, end, data = self._head.partition(b"\r\n\r\n")
            if not end:
                return
            if b" 101 " not in head[:16]:
                wait = _RETRY_AFTER.search(head)
                self._device.ended(self, head[9:12].decode(), f"retry_after_ms={int(wait[1])}000" if wait else "")
                self.close()
                return
            self._frames = Frames()
            self._timeout.cancel()
            self.send({"hello": self._device.hello()})
        try:
            for text in self._frames.feed(data):
                self._device.receive(self, text)
        except ServerClosed as closed:
            self._device.ended(self, str(closed.code), closed.reason)
            self.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """Report the end, unless a close was received before."""
        self._timeout.cancel()
        self._device.ended(self, "lost", "")

    def send(self, frame: dict[str, Any]) -> None:
        """Send a frame."""
        if self._transport is not None:
            self._transport.write(client_frame(frame))

    def close(self) -> None:
        """Close the socket."""
        if self._transport is not None:
            self._transport.close()


class ReconnectingDevice:
    """One device with its copy. It tries the gateways in turn, waits as the client libraries do, and resumes.

    ``address``: of this machine, from which it connects.
    """

    def __init__(
        self, uid: str, name: str, token: str, urls: list[str], address: str | None, log: ReconnectLog
    ) -> None:
        self.uid = uid
        self.name = name
        self.token = token
        self.mirror = Mirror()
        self.synced = asyncio.Event()
        self._log = log
        self._urls = urls
        self._address = address
        self._delays = ReconnectDelays(DeviceTimings())
        self._link: Link | None = None
        self._gone_s = time.monotonic()
        self._has_hint = self._has_reconnected = self._is_stopped = False
        self._tries = self._connections = 0
        self._tasks: set[asyncio.Task[None]] = set()

    # ---- the connection

    def connect(self) -> None:
        """Connect to the next gateway, and reconnect until ``stop``."""
        if not self._is_stopped:
            task = asyncio.get_running_loop().create_task(self._open())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _open(self) -> None:
        url = self._urls[self._tries % len(self._urls)]
        self._tries += 1
        self._has_hint = False
        link = self._link = Link(self)
        local = None if self._address is None else (self._address, 0)
        tls = UNSAFE if url.startswith("wss:") else None
        try:
            async with asyncio.timeout(OPEN_S):
                await asyncio.get_running_loop().create_connection(
                    lambda: link, *address_of(url), ssl=tls, local_addr=local
                )
        except (OSError, TimeoutError):
            link.connection_lost(None)

    def stop(self) -> None:
        """End the connection for good."""
        self._is_stopped = True
        link, self._link = self._link, None
        if link is not None:
            link.close()

    def ended(self, link: Link, how: str, reason: str) -> None:
        """Note the end of a connection, and reconnect: at once after a hint, else after a delay with full jitter."""
        if link is not self._link:
            return
        self._link = None
        self._log.ends["hint" if self._has_hint else how] += 1
        if self.synced.is_set():
            self.synced.clear()
            self._gone_s = time.monotonic()
        if self._log.recorder is not None and self._connections:
            self._log.recorder.close_connection(self.uid, self._name())
        self._has_reconnected = True
        delay_s = 0.0 if self._has_hint else self._delays.next_s(reason)
        asyncio.get_running_loop().call_later(delay_s, self.connect)

    def _leave(self, link: Link) -> None:
        """End a connection at the time that the gateway asked for."""
        self.ended(link, "hint", "")
        link.close()

    # ---- frames

    def hello(self) -> dict[str, Any]:
        """Return the hello: the copy that the device has."""
        cursor = None if self.mirror.needs_full else self.mirror.cursor
        before = self._name() if self._connections else None
        self._connections += 1
        if self._log.recorder is not None:
            self._log.recorder.connect(self.uid, self._name(), device=self.name, resumes=before, cursor=cursor)
        return {"session": self.name, **({"cursor": cursor, "digest": self.mirror.digest} if cursor else {})}

    def receive(self, link: Link, text: bytes) -> None:
        """Apply a frame to the copy."""
        frame: dict[str, Any] = msgspec.json.decode(text)
        if "ping" in frame:
            link.send({"pong": frame["ping"]})
        elif "reconnect" in frame:
            self._has_hint = True
            asyncio.get_running_loop().call_later(frame["reconnect"]["after_ms"] / 1_000, self._leave, link)
        elif "system" in frame and "seq" in frame:
            if self._log.recorder is not None:
                self._log.recorder.frame(self.uid, self._name(), text)
            self.mirror.apply(frame)
            if "sync" in frame:
                self._sync(frame["sync"])
            elif not self._has_reconnected:
                self._measure(frame)
            if self.mirror.needs_full:
                self.ended(link, "digest", "")
                link.close()

    def _sync(self, kind: str) -> None:
        if self.synced.is_set():
            return
        self.synced.set()
        self._delays.reset()
        if self._has_reconnected:
            self._log.outages.append(Outage(self._gone_s, time.monotonic(), kind))

    def _measure(self, frame: dict[str, Any]) -> None:
        now, wall = time.monotonic(), time.time()
        created = frame["body"].get("create", {}) if frame["system"] == "gregor" else {}
        self._log.latencies += [(now, wall - item["times"]["created"]) for item in created.values()]

    def _name(self) -> str:
        return f"{self.uid}/{self.name}/{self._connections}"
