"""Store commands between which a test executes other steps."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any

from gregor.redis.commands import RedisCommands, Script, ScriptCall
from gregor.redis.connection import Argument


class Interleaved:
    """Commands that execute the next step before each script call, unless the first call is free."""

    def __init__(self, connection: RedisCommands, *, is_first_free: bool = True) -> None:
        self._connection = connection
        self.steps: Iterator[Callable[[], Awaitable[Any]]] = iter(())
        self._is_first = is_first_free

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)

    def run(self, call: ScriptCall) -> Any:
        return asyncio.ensure_future(self._after_step(lambda: self._connection.run(call)))

    def evalsha(self, script: Script, keys: Sequence[Argument], args: Sequence[Argument]) -> Any:
        return asyncio.ensure_future(self._after_step(lambda: self._connection.evalsha(script, keys, args)))

    async def _after_step(self, send: Callable[[], Awaitable[Any]]) -> Any:
        if not self._is_first and (step := next(self.steps, None)) is not None:
            await step()
        self._is_first = False
        return await send()
