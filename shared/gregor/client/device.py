"""A live device: one copy of one view, kept in step with the server over WebSocket (semantics.md L9–L14).

    async with Device("ws://127.0.0.1:8701", token) as device:
        await device.wait_until_synced()
        print(device.state, device.badge)
        async for change in device.changes():
            ...

It reconnects by itself, resumes where it was, proves its copy by the digest, and keeps what it has to say in an outbox
until the server has taken it. `mirror` and `outbox` decide; this page moves.
"""

from __future__ import annotations

import asyncio
import inspect
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Any, Self

from gregor.clock import Clock, SystemClock
from gregor.core.close_codes import CloseCode
from gregor.net.os_errors import os_error_text

from .changes import Change, Item, MessageRefused, Stopped, Synced
from .connection import Closed, Connection
from .messages import Message, creation, dismissal, snoozed
from .mirror import Mirror, count, is_expired
from .outbox import Outbox, Settled, is_retryable
from .pause import Patience, Pauses, is_final
from .problem import DeviceStopped, MessageRejected
from .readers import Readers

Token = str | Callable[[], str | Awaitable[str]]
"""A device token, or what gets a fresh one (called for each connection and at each `refresh`)."""


class Device:
    """One device of one user. An async context manager: connected inside, gone outside."""

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
        kept: Mapping[str, Any] | None = None,
        clock: Clock | None = None,
        patience: Patience | None = None,
    ) -> None:
        """`url`: of a gateway (`ws://…`), or of several, tried in turn. `category_prefix`, `systems` narrow the view.

        `device`: a name for people and logs; what the server goes by stands in the token. `kept`: what `keep` gave an
        earlier process, whose copy is resumed where it has the same filter; its waiting messages are sent in any case.
        """
        self.name = device
        """The name given, if any."""
        self.stopped: Stopped | None = None
        """Why the device will not reconnect; None while it does."""
        self.trouble: str | None = None
        """Why the last connection ended or could not be made; None where nothing was wrong so far."""
        self._urls = [url] if isinstance(url, str) else list(url)
        self._token = token
        self._foreground = foreground
        self._filter = {"category_prefix": category_prefix, "systems": systems}
        self._session = session or secrets.token_hex(8)
        self._clock = clock or SystemClock()
        self._patience = patience or Patience()
        self._pauses = Pauses(self._patience)
        self._mirror = Mirror()
        self._outbox = Outbox(lambda: secrets.token_hex(16))
        if kept is not None:
            self._take_up(kept)
        self._receipts: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._readers = Readers()
        self._synced = asyncio.Event()
        self._emptied = asyncio.Event()
        self._connection: Connection | None = None
        self._task: asyncio.Task[None] | None = None
        self._later: asyncio.TimerHandle | None = None
        self._is_proving = False

    # What it shows.

    @property
    def state(self) -> dict[str, Item]:
        """What to show now: the copy, what waits in the outbox laid over it, without what has expired by our clock."""
        now_us = self._clock.now_us()
        shown = self._outbox.overlay(self._mirror.items)
        return {id_: item for id_, item in shown.items() if not is_expired(item, now_us)}

    @property
    def items(self) -> Mapping[str, Item]:
        """The copy alone, as the server has told it."""
        return self._mirror.items

    @property
    def badge(self) -> int:
        """How many items of `state` count."""
        return count(self.state, self._mirror.uncounted)

    @property
    def due(self) -> dict[str, Item]:
        """Items of the copy of which a reminder is past (L7)."""
        return self._mirror.due(self._clock.now_us())

    @property
    def cursor(self) -> str | None:
        """The position of the copy; None before the first sync."""
        return self._mirror.cursor

    @property
    def digest(self) -> str:
        """The digest of the copy (L10)."""
        return self._mirror.digest

    @property
    def waiting(self) -> int:
        """How many messages wait in the outbox."""
        return len(self._outbox)

    @property
    def is_synced(self) -> bool:
        """Whether it is connected and has had its sync object."""
        return self._synced.is_set() and self.stopped is None

    def keep(self) -> dict[str, Any]:
        """Copy and outbox as JSON values, to be given to a later process as `kept`."""
        return {"filter": self._filter, "mirror": self._mirror.dump(), "outbox": self._outbox.dump()}

    def changes(self) -> AsyncIterator[Change]:
        """Everything that happens from now on; ends after `Stopped`, or when the device is closed."""
        return self._readers.subscribe()

    async def wait_until_synced(self) -> None:
        """Until it is connected and in step. Raises `DeviceStopped` where the server will not have it."""
        await self._or_stopped(self._synced)

    async def wait_until_sent(self) -> None:
        """Until the outbox is empty: everything taken or refused. Raises `DeviceStopped`."""
        if len(self._outbox):
            self._emptied.clear()
            await self._or_stopped(self._emptied)

    # What it says.

    def post(self, message: Message) -> int:
        """Put a message in the outbox and go on; shown at once in `state`. Its ref, as in `MessageRefused`."""
        ref = self._outbox.put(message, self._mirror.items, self._clock.now_us())
        self._pump()
        return ref

    async def send(self, message: Message) -> dict[str, Any]:
        """Put a message in the outbox and wait for its receipt; giving up waiting does not take it back.

        Raises `MessageRejected` where the server refuses it for good, `DeviceStopped` where it will not have us.
        """
        if self.stopped is not None:
            raise DeviceStopped(self.stopped)
        future: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        ref = self.post(message)
        self._receipts[ref] = future
        try:
            return await future
        finally:
            self._receipts.pop(ref, None)

    async def create(self, category: str, body: Any = None, *, id_: str | None = None, **fields: Any) -> str:
        """Create an item (fields as in `messages.creation`); its id, random where not given."""
        chosen = id_ or secrets.token_hex(8)
        await self.send(creation(chosen, category, body, **fields))
        return chosen

    async def dismiss(self, *ids: str, **interval: Any) -> dict[str, Any]:
        """Dismiss ids, or a `category` or `category_prefix` up to what this copy holds (but `skip`); the receipt."""
        return await self.send(dismissal(ids, **interval))

    async def snooze(self, id_: str, until: float) -> str:
        """Put an item of the copy off: it leaves now, and a copy of it comes at `until` (Unix seconds).

        The id of the message that waits. The copy is accepted before the item is dismissed: whatever fails between
        loses nothing, and the same call again finishes it. `KeyError` where the copy has no such item, `ValueError`
        where it expires before.
        """
        receipt = await self.send(snoozed(id_, self._mirror.items[id_], until, self.name))
        await self.dismiss(id_)
        return str(receipt["id"])

    def ack(self, seq: int | None = None) -> None:
        """The user has seen what this view showed up to `seq` (all, where not given): stops pushes for it."""
        self._say({"ack": self._mirror.seq if seq is None else seq})

    def set_foreground(self, foreground: bool) -> None:
        """Tell whether the user looks at this device."""
        self._foreground = foreground
        self._say({"foreground": foreground})

    # The loop.

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._run())
        self._task.add_done_callback(self._was_ended)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
        if self._later is not None:
            self._later.cancel()
        self._readers.end()

    async def _run(self) -> None:
        attempt = 0
        while self.stopped is None:
            closed, wait_s = Closed(CloseCode.ABNORMAL), None
            try:
                closed, wait_s = await self._connect(self._urls[attempt % len(self._urls)])
            except OSError as error:
                closed = Closed(CloseCode.ABNORMAL, os_error_text(error))
            finally:
                self._hang_up()
            if is_final(closed.code) or (closed.code == CloseCode.TOKEN_EXPIRED and isinstance(self._token, str)):
                self._stop(Stopped(closed.code, closed.reason))
                return
            attempt += 1
            self.trouble = f"{closed.code} {closed.reason}".strip()
            await asyncio.sleep(self._pauses.next_s(closed.reason) if wait_s is None else wait_s)

    async def _connect(self, url: str) -> tuple[Closed, float | None]:
        """One connection from hello to close; how it ended, and the pause where the server set one."""
        connection = self._connection = await Connection.open(url, await self._fresh_token())
        self._outbox.reconnected()
        connection.send({"hello": self._hello()})
        check_at = self._clock.monotonic() + self._patience.check_s
        while True:
            try:
                frame = await connection.receive(self._patience.silence_s)
            except TimeoutError:
                return Closed(CloseCode.ABNORMAL, "silence"), None
            if isinstance(frame, Closed):
                return frame, None
            if "reconnect" in frame:
                await self._linger(connection, frame["reconnect"]["after_ms"] / 1_000)
                return Closed(CloseCode.NORMAL), 0.0
            if (ended := await self._receive(frame)) is not None:
                return ended, None
            if self._clock.monotonic() >= check_at and self.is_synced:
                check_at = self._clock.monotonic() + self._patience.check_s
                self._say({"resync": {"cursor": self._mirror.cursor, "digest": self._mirror.digest}})

    async def _linger(self, connection: Connection, after_s: float) -> None:
        """Go on taking frames until the moment at which the server wants us elsewhere, or it closes."""
        with suppress(TimeoutError):
            async with asyncio.timeout(after_s):
                while not isinstance(frame := await connection.receive(after_s + 1), Closed):
                    await self._receive(frame)

    async def _receive(self, frame: Mapping[str, Any]) -> Closed | None:
        """Take one frame; a close of our own where it says that there is no going on."""
        if "ping" in frame:
            self._say({"pong": frame["ping"]})
        elif "refresh" in frame:
            # Where no fresh token is to be had now, the next connection asks again.
            with suppress(OSError):
                self._say({"token": await self._fresh_token()})
        elif "ref" in frame:
            self._settle(self._outbox.answered(frame, self._mirror.seq, self._clock.now_us()))
            self._pump()
        elif "problem" in frame:
            return self._take_problem(frame["problem"])
        else:
            self._apply(frame)
        return None

    def _take_problem(self, problem: Mapping[str, Any]) -> Closed | None:
        """A problem that answers no message of the outbox: of `hello`, or of a resync."""
        retry_after_ms = problem.get("retry_after_ms", 1_000)
        if self.is_synced:
            asyncio.get_running_loop().call_later(retry_after_ms / 1_000, self._prove)
            return None
        if is_retryable(problem):
            return Closed(CloseCode.UNAVAILABLE, f"retry_after_ms={retry_after_ms}")
        return Closed(CloseCode.BAD_PROTOCOL, f"{problem.get('code')}: {problem.get('detail')}")

    def _apply(self, frame: Mapping[str, Any]) -> None:
        changes = self._mirror.apply(frame)
        self._readers.tell(changes)
        self._settle(self._outbox.reached(self._mirror.seq))
        if any(isinstance(change, Synced) for change in changes):
            self._was_synced()

    def _was_synced(self) -> None:
        self._pauses.reset()
        self._synced.set()
        # Asked once: a full copy that proves nothing either is the server's fault, and asking again would not end.
        if self._mirror.needs_full and not self._is_proving:
            self._prove()
        self._is_proving = self._mirror.needs_full
        self._pump()

    def _prove(self) -> None:
        """Ask for a full copy where ours is not the server's."""
        if self._mirror.needs_full:
            self._say({"resync": True})

    def _pump(self) -> None:
        """Send what may be sent, and look again when the server's wish to wait is over."""
        if self._connection is None or not self.is_synced:
            return
        now_us = self._clock.now_us()
        for frame in self._outbox.sendable(now_us):
            self._connection.send(frame)
        if self._later is not None:
            self._later.cancel()
            self._later = None
        if hold_s := self._outbox.hold_s(now_us):
            self._later = asyncio.get_running_loop().call_later(hold_s, self._pump)

    def _settle(self, settled: Iterable[Settled]) -> None:
        for one in settled:
            future = self._receipts.pop(one.ref, None)
            if one.problem is not None:
                self._readers.tell([MessageRefused(one.ref, one.problem)])
            if future is not None and not future.done():
                if one.receipt is not None:
                    future.set_result(one.receipt)
                else:
                    future.set_exception(MessageRejected(one.problem or {}))
        if not len(self._outbox):
            self._emptied.set()

    def _hello(self) -> dict[str, Any]:
        hello = {"foreground": self._foreground, "session": self._session, **self._filter}
        if self._mirror.cursor is not None:
            hello |= {"cursor": self._mirror.cursor, "digest": self._mirror.digest}
        return {name: value for name, value in hello.items() if value is not None}

    def _say(self, frame: Mapping[str, Any]) -> None:
        if self._connection is not None:
            self._connection.send(frame)

    async def _fresh_token(self) -> str:
        if isinstance(self._token, str):
            return self._token
        try:
            token = self._token()
            return await token if inspect.isawaitable(token) else token
        except Exception as error:
            raise OSError(f"no token: {error!r}") from error

    def _hang_up(self) -> None:
        self._synced.clear()
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _was_ended(self, task: asyncio.Task[None]) -> None:
        """The loop is over: where a fault of ours ended it, whoever waits must hear of it."""
        if not task.cancelled() and (error := task.exception()) is not None:
            self._stop(Stopped(CloseCode.INTERNAL_ERROR, repr(error)))

    def _stop(self, stopped: Stopped) -> None:
        self.stopped = stopped
        self._readers.tell([stopped])
        self._readers.end()
        for future in self._receipts.values():
            if not future.done():
                future.set_exception(DeviceStopped(stopped))
        self._synced.set()
        self._emptied.set()

    async def _or_stopped(self, event: asyncio.Event) -> None:
        await event.wait()
        if self.stopped is not None:
            raise DeviceStopped(self.stopped)

    def _take_up(self, kept: Mapping[str, Any]) -> None:
        self._outbox = Outbox.load(kept["outbox"], lambda: secrets.token_hex(16))
        if kept["filter"] == self._filter:
            self._mirror = Mirror.load(kept["mirror"])
