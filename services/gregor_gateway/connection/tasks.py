"""Tasks of a connection that await the store: tokens, presence, commits. They run one at a time, in the client's order.

If a client sends faster than its tasks complete, the gateway stops reading from it (backpressure). Posted frames come
from other requests: posted tokens are refused while the queue is full, and other posted frames are merged with queued
ones.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable
from typing import Final

from gregor_gateway.protocol.effects import Acknowledge, CommitMessage, JoinChannel, ReportForeground, Task, VerifyToken
from gregor_gateway.runtime.background import BackgroundTasks

from .transport import Transport

MAX_TASKS: Final = 64
"""Queued tasks of one client above which its transport is no longer read."""
MAX_TASK_BYTES: Final = 1 << 20
"""The same bound in bytes: while the store is down, a client costs about one frame of the maximum size."""


class TaskQueue:
    """The queued tasks of one connection; exists only while there are some."""

    __slots__ = ("_await_turn", "_bytes", "_is_held", "_on_idle", "_perform", "_tasks", "_transport")

    def __init__(
        self,
        background: BackgroundTasks,
        transport: Transport,
        await_turn: Callable[[Task], Awaitable[None]],
        perform: Callable[[Task], Awaitable[None]],
        on_idle: Callable[[], None],
    ) -> None:
        """``await_turn`` is awaited before each task, which stays queued meanwhile.

        Neither it nor ``perform`` may raise. ``on_idle`` is called once, after the last task.
        """
        self._transport = transport
        self._await_turn = await_turn
        self._perform = perform
        self._on_idle = on_idle
        self._tasks: deque[Task] = deque()
        self._bytes = 0
        self._is_held = False
        background.start(self._run())

    @property
    def is_full(self) -> bool:
        """Whether the queue is above its bound."""
        return len(self._tasks) > MAX_TASKS or self._bytes > MAX_TASK_BYTES

    def add(self, task: Task) -> None:
        """Queue a task. Joining goes first; of an acknowledgement and a queued one before it, the higher one stays.

        A second ``foreground`` report is dropped: the queued one sends the newest value.
        """
        if isinstance(task, JoinChannel):
            # Nothing that the client sent may run before the join.
            self._tasks.appendleft(task)
            return
        last = self._tasks[-1] if self._tasks else None
        if isinstance(task, Acknowledge) and isinstance(last, Acknowledge):
            self._tasks[-1] = max(last, task, key=lambda ack: ack.seq)
            return
        if isinstance(task, ReportForeground) and any(isinstance(queued, ReportForeground) for queued in self._tasks):
            return
        self._tasks.append(task)
        self._bytes += _size_of(task)
        if self.is_full and not self._is_held:
            self._hold_reading(True)

    def clear(self) -> None:
        """Drop all queued tasks: the connection was closed by the server."""
        self._tasks.clear()
        self._bytes = 0

    def _hold_reading(self, is_held: bool) -> None:
        self._is_held = is_held
        self._transport.hold_reading(is_held)

    async def _run(self) -> None:
        # Tasks of a client that has left still run: it may send a last message and disconnect.
        while self._tasks:
            await self._await_turn(self._tasks[0])
            if not self._tasks:
                break  # dropped meanwhile
            task = self._tasks.popleft()
            self._bytes -= _size_of(task)
            await self._perform(task)
            # Half of the bound: reading must not stop and start with every task.
            if self._is_held and len(self._tasks) < MAX_TASKS // 2 and self._bytes <= MAX_TASK_BYTES // 2:
                self._hold_reading(False)
        self._on_idle()


def _size_of(task: Task) -> int:
    match task:
        case CommitMessage():
            return task.size_bytes
        case VerifyToken(token):
            return len(token)
    return 0
