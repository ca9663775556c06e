"""A live device: one copy of one view, synchronized with the server over WebSocket (docs/semantics.md L9-L14).

    async with Device("ws://127.0.0.1:8701", token) as device:
        await device.wait_until_synced()
        print(device.state, device.badge)
        async for change in device.changes():
            ...

The device reconnects by itself, resumes from its cursor, proves its copy by the digest, and keeps messages in an outbox
until the server has confirmed them. `synchronizer` decides; this module does the I/O.
"""

from __future__ import annotations

import asyncio
import inspect
import secrets
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Any, Self

from gregor.clock import Clock, SystemClock
from gregor.core.close_codes import CloseCode
from gregor.net.os_errors import os_error_text

from .changes import ChangeReader, ChangeSubscriptions, Item, MessageRefused, Stopped
from .connection import GatewayClosed, GatewayConnection, malformed
from .errors import DeviceStopped, ItemIgnored, error_of
from .messages import (
    CreateReceipt,
    Message,
    MessageReceipt,
    Time,
    TimeOrOffset,
    creation,
    dismissal,
    read_create_receipt,
    read_receipt,
    reason_not_created,
    snoozed,
)
from .mirror import Mirror
from .outbox import Completed, Outbox
from .reconnect import DeviceTimings, ReconnectDelays, is_final
from .synchronizer import Synchronizer

FRAME_ERRORS = (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError)
"""Errors of a frame whose values cannot be processed, although its shape is valid."""

Token = str | Callable[[], str | Awaitable[str]]
"""A device token, or a function (plain or async) that returns a fresh one for each connection and each `refresh`."""


class Device:
    """One device of one user, as an async context manager: it is connected inside."""

    def __init__(
        self,
        url: str | Sequence[str],
        token: Token,
        device: str | None = None,
        *,
        foreground: bool = False,
        category_prefix: Sequence[str] | None = None,
        systems: Sequence[str] | None = None,
        session: str | None = None,
        restore: Mapping[str, Any] | None = None,
        clock: Clock | None = None,
        timings: DeviceTimings | None = None,
    ) -> None:
        """Prepare a device; entering the context connects it.

        `url`: of one gateway (`ws://…`), or of several, which are tried in turn. `category_prefix` and `systems` narrow
        the view. `device`: a name for logs; the server uses the name in the token. `restore`: the `snapshot` of an
        earlier process. Its copy is resumed if it has the same filter; its pending messages are sent in any case.
        """
        self.name = device
        """The name given, if any."""
        self.stopped: Stopped | None = None
        """Why the device will not reconnect; None while it does."""
        self.last_error: str | None = None
        """Why the last connection ended or could not be made; None if nothing has failed yet."""
        self._urls = [url] if isinstance(url, str) else list(url)
        self._token = token
        self._foreground = foreground
        self._filter = {"category_prefix": category_prefix, "systems": systems}
        self._session = session or secrets.token_hex(8)
        self._clock = clock or SystemClock()
        self._timings = timings or DeviceTimings()
        self._delays = ReconnectDelays(self._timings)
        self._synchronizer = Synchronizer(lambda: secrets.token_hex(16), check_s=self._timings.check_s)
        if restore is not None:
            self._restore(restore)
        self._receipts: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._subscriptions = ChangeSubscriptions()
        self._synced = asyncio.Event()
        self._outbox_empty = asyncio.Event()
        self._connection: GatewayConnection | None = None
        self._task: asyncio.Task[None] | None = None
        self._tick_timer: asyncio.TimerHandle | None = None
        self._synced_at_s: float | None = None

    # The state.

    @property
    def state(self) -> dict[str, Item]:
        """The items to show now: the copy with the outbox overlaid, without items that have expired locally."""
        return self._synchronizer.shown(self._clock.now_us())

    @property
    def items(self) -> Mapping[str, Item]:
        """The copy alone, as the server sent it."""
        return self._synchronizer.mirror.items

    @property
    def badge(self) -> int:
        """The number of items in `state` that count for the badge."""
        return self._synchronizer.badge(self._clock.now_us())

    @property
    def due(self) -> dict[str, Item]:
        """The items of the copy with a reminder in the past (L7)."""
        return self._synchronizer.mirror.due(self._clock.now_us())

    @property
    def cursor(self) -> str | None:
        """The position of the copy; None before the first sync."""
        return self._synchronizer.mirror.cursor

    @property
    def digest(self) -> str:
        """The digest of the copy (L10)."""
        return self._synchronizer.mirror.digest

    @property
    def pending(self) -> int:
        """The number of messages in the outbox."""
        return len(self._synchronizer.outbox)

    @property
    def is_synced(self) -> bool:
        """Whether the device is connected and has received its sync object."""
        return self._synced.is_set() and self.stopped is None

    def snapshot(self) -> dict[str, Any]:
        """Copy and outbox as JSON values, for the argument `restore` of a later process."""
        return {
            "filter": self._filter,
            "mirror": self._synchronizer.mirror.snapshot(),
            "outbox": self._synchronizer.outbox.snapshot(),
        }

    def changes(self) -> ChangeReader:
        """Iterate over all changes from now on, until `Stopped` or until the device is closed."""
        return self._subscriptions.subscribe()

    async def wait_until_synced(self) -> None:
        """Wait until the device is connected and synchronized. Raises `DeviceStopped`."""
        await self._wait_for(self._synced)

    async def wait_until_sent(self) -> None:
        """Wait until the outbox is empty: every message is confirmed or refused. Raises `DeviceStopped`."""
        if len(self._synchronizer.outbox):
            self._outbox_empty.clear()
            await self._wait_for(self._outbox_empty)

    # Messages.

    def post(self, message: Message) -> int:
        """Enqueue a message and return its ref, as in `MessageRefused`. `state` shows its effect at once.

        Raises TypeError or ValueError if the message is not JSON, has a lone surrogate, or is longer than 1 MB.
        """
        ref = self._synchronizer.put(message, self._clock.now_us())
        self._tick()
        return ref

    async def send(self, message: Message) -> MessageReceipt:
        """Enqueue a message and wait for its receipt. Cancelling the wait does not cancel the message.

        Raises `Rejected` (see `errors`) if the server refuses it for good, and `DeviceStopped`.
        """
        return read_receipt(await self._receipt_of(message))

    async def create(
        self,
        category: str,
        body: Any = None,
        *,
        item_id: str | None = None,
        for_device: str | None = None,
        created: Time | None = None,
        expires: TimeOrOffset | None = None,
        remind_at: Sequence[TimeOrOffset] = (),
    ) -> CreateReceipt:
        """Create an item and return the receipt with its `item_id` (random unless given).

        Raises `ItemIgnored` if the item does not exist afterwards, and the errors of `send`.
        """
        chosen = item_id or secrets.token_hex(8)
        message = creation(
            chosen, category, body, for_device=for_device, created=created, expires=expires, remind_at=remind_at
        )
        receipt = read_create_receipt(chosen, await self._receipt_of(message))
        if (reason := reason_not_created(chosen, receipt)) is not None:
            raise ItemIgnored(chosen, reason, receipt)
        return receipt

    async def dismiss(
        self,
        *item_ids: str,
        category: str | None = None,
        category_prefix: str | None = None,
        end: Time | None = None,
        skip: Iterable[str] = (),
    ) -> MessageReceipt:
        """Dismiss items by id, or the items of a category or under a prefix that this copy contains, except `skip`."""
        return await self.send(
            dismissal(item_ids, category=category, category_prefix=category_prefix, end=end, skip=skip)
        )

    async def snooze(self, item_id: str, until: Time) -> str:
        """Dismiss an item of the copy now and create a copy of it at `until`. Return the message id of the copy.

        The copy is accepted before the item is dismissed: a failure in between loses nothing, and the same call again
        finishes it. Raises KeyError if there is no such item, ValueError if it expires before `until`.
        """
        receipt = await self.send(snoozed(item_id, self._synchronizer.mirror.items[item_id], until, self.name))
        await self.dismiss(item_id)
        return str(receipt.message_id)

    def ack(self, seq: int | None = None) -> None:
        """Report that the user has seen this view up to `seq` (default: all of it); this stops pushes for it."""
        self._send_frame({"ack": self._synchronizer.mirror.seq if seq is None else seq})

    def set_foreground(self, foreground: bool) -> None:
        """Report whether the user is looking at this device."""
        self._foreground = foreground
        self._send_frame({"foreground": foreground})

    # The connection loop.

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._run())
        self._task.add_done_callback(self._run_ended)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
        if self._tick_timer is not None:
            self._tick_timer.cancel()
        self._subscriptions.end()

    async def _run(self) -> None:
        attempt = 0
        while self.stopped is None:
            closed, is_asked = GatewayClosed(CloseCode.ABNORMAL), False
            try:
                closed, is_asked = await self._connect(self._urls[attempt % len(self._urls)])
            except OSError as error:
                closed = GatewayClosed(CloseCode.ABNORMAL, os_error_text(error))
            finally:
                self._disconnect()
            if is_final(closed.code) or (closed.code == CloseCode.TOKEN_EXPIRED and isinstance(self._token, str)):
                self._stop(Stopped(closed.code, closed.reason))
                return
            attempt += 1
            self.last_error = f"{closed.code} {closed.reason}".strip()
            await asyncio.sleep(self._delay_s(closed, is_asked))

    def _delay_s(self, closed: GatewayClosed, is_asked: bool) -> float:
        """Return the delay before the next connection: 0 if the server requested a reconnect of a good connection."""
        # A server may request reconnects without end, so such a request does not skip the backoff otherwise.
        if self._synced_at_s is not None and time.monotonic() - self._synced_at_s >= self._timings.good_s:
            self._delays.reset()
            if is_asked:
                return 0.0
        return self._delays.next_s(closed.reason)

    async def _connect(self, url: str) -> tuple[GatewayClosed, bool]:
        """Hold one connection from hello to close; return how it ended, and whether the server asked to reconnect."""
        self._synced_at_s = None
        connection = self._connection = await GatewayConnection.open(url, await self._fresh_token())
        connection.send({"hello": self._hello(self._synchronizer.opened())})
        while True:
            frame = await self._receive_or_ping(connection)
            if isinstance(frame, GatewayClosed):
                return frame, False
            if "reconnect" in frame:
                await self._receive_until_reconnect(connection, frame["reconnect"]["after_ms"] / 1_000)
                return GatewayClosed(CloseCode.NORMAL), True
            try:
                ended = await self._receive(frame)
                self._tick()
            except FRAME_ERRORS as error:
                ended = malformed(error)
            if ended is not None:
                return ended, False

    async def _receive_or_ping(self, connection: GatewayConnection) -> Mapping[str, Any] | GatewayClosed:
        """Return the next frame. After a silence, a ping decides whether the connection is dead."""
        # Silence alone proves nothing: this process may have been suspended, or its event loop blocked.
        with suppress(TimeoutError):
            return await connection.receive(self._timings.silence_s)
        connection.send({"ping": 1})
        try:
            return await connection.receive(self._timings.answer_s)
        except TimeoutError:
            return GatewayClosed(CloseCode.ABNORMAL, "a ping was not answered")

    async def _receive_until_reconnect(self, connection: GatewayConnection, after_s: float) -> None:
        """Process frames until the moment that the server named for the reconnect, or until it closes."""
        with suppress(TimeoutError):
            async with asyncio.timeout(after_s):
                while not isinstance(frame := await connection.receive(after_s + 1), GatewayClosed):
                    with suppress(*FRAME_ERRORS):
                        await self._receive(frame)

    async def _receive(self, frame: Mapping[str, Any]) -> GatewayClosed | None:
        """Process one frame; return a close if the connection cannot be used any longer."""
        if "ping" in frame:
            self._send_frame({"pong": frame["ping"]})
        elif "refresh" in frame:
            # If no fresh token is available now, the next connection asks for one again.
            with suppress(OSError):
                self._send_frame({"token": await self._fresh_token()})
        else:
            return self._apply(frame)
        return None

    # Synchronization and outbox.

    def _apply(self, frame: Mapping[str, Any]) -> GatewayClosed | None:
        outcome = self._synchronizer.receive(frame, self._monotonic_us())
        self._subscriptions.publish(outcome.changes)
        self._complete(outcome.completed)
        if outcome.refusal is not None:
            return GatewayClosed(*outcome.refusal)
        for frame in outcome.send:
            self._send_frame(frame)
        if self._synchronizer.is_synced and not self._synced.is_set():
            self._synced_at_s = time.monotonic()
            self._synced.set()
        return None

    def _tick(self) -> None:
        """Send the frames that are due, and set a timer for the next ones."""
        if self._connection is None:
            return
        monotonic_us = self._monotonic_us()
        for frame in self._synchronizer.tick(monotonic_us):
            self._connection.send(frame)
        if self._tick_timer is not None:
            self._tick_timer.cancel()
            self._tick_timer = None
        if (at_us := self._synchronizer.next_tick_us(monotonic_us)) is not None:
            delay_s = (at_us - monotonic_us) / 1_000_000
            self._tick_timer = asyncio.get_running_loop().call_later(delay_s, self._tick)

    def _monotonic_us(self) -> int:
        return round(self._clock.monotonic() * 1_000_000)

    async def _receipt_of(self, message: Message) -> dict[str, Any]:
        if self.stopped is not None:
            raise DeviceStopped(self.stopped)
        future: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        ref = self.post(message)
        self._receipts[ref] = future
        try:
            return await future
        finally:
            self._receipts.pop(ref, None)

    def _complete(self, completed: Iterable[Completed]) -> None:
        for entry in completed:
            future = self._receipts.pop(entry.ref, None)
            if entry.problem is not None:
                self._subscriptions.publish([MessageRefused(entry.ref, entry.problem)])
            if future is not None and not future.done():
                if entry.receipt is not None:
                    future.set_result(entry.receipt)
                else:
                    future.set_exception(error_of(entry.problem or {}))
        if not len(self._synchronizer.outbox):
            self._outbox_empty.set()

    def _hello(self, position: Mapping[str, Any]) -> dict[str, Any]:
        hello = {"foreground": self._foreground, "session": self._session, **self._filter, **position}
        return {name: value for name, value in hello.items() if value is not None}

    def _send_frame(self, frame: Mapping[str, Any]) -> None:
        if self._connection is not None:
            self._connection.send(frame)

    async def _fresh_token(self) -> str:
        if isinstance(self._token, str):
            return self._token
        try:
            token = self._token()
            return await token if inspect.isawaitable(token) else token
        except Exception as error:
            raise OSError(f"no device token: {error or type(error).__name__}") from error

    # The end.

    def _disconnect(self) -> None:
        self._synced.clear()
        self._synchronizer.closed()
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _run_ended(self, task: asyncio.Task[None]) -> None:
        """Report an unexpected exception of the loop to all waiting callers."""
        if not task.cancelled() and (error := task.exception()) is not None:
            self._stop(Stopped(CloseCode.INTERNAL_ERROR, repr(error)))

    def _stop(self, stopped: Stopped) -> None:
        self.stopped = stopped
        self._subscriptions.publish([stopped])
        self._subscriptions.end()
        for future in self._receipts.values():
            if not future.done():
                future.set_exception(DeviceStopped(stopped))
        self._synced.set()
        self._outbox_empty.set()

    async def _wait_for(self, event: asyncio.Event) -> None:
        await event.wait()
        if self.stopped is not None:
            raise DeviceStopped(self.stopped)

    def _restore(self, snapshot: Mapping[str, Any]) -> None:
        self._synchronizer.outbox = Outbox.restore(snapshot["outbox"], lambda: secrets.token_hex(16))
        if snapshot["filter"] == self._filter:
            self._synchronizer.mirror = Mirror.restore(snapshot["mirror"])
