"""``RedisCommands`` over a client of redis-py: it lets the Redis store run on fakeredis."""

from __future__ import annotations

import asyncio
import hashlib
from collections import deque
from collections.abc import Sequence
from typing import Any

import hiredis
import redis.exceptions
from fakeredis.commands_mixins.scripting_mixin import ScriptingCommandsMixin
from redis.asyncio import Redis

from gregor.redis.commands import KeyGroup, RedisNode, Script, ScriptCall
from gregor.redis.connection import Argument, Command
from gregor.redis.errors import RedisUnavailable, ReplyError

# redis-py removes the error code from the text if it has a class for it.
_CODES: dict[type[redis.exceptions.RedisError], str] = {
    redis.exceptions.NoScriptError: "NOSCRIPT",
    redis.exceptions.ReadOnlyError: "READONLY",
    redis.exceptions.OutOfMemoryError: "OOM",
    redis.exceptions.NoPermissionError: "NOPERM",
}


_runtime_of = ScriptingCommandsMixin._get_server_runtime


def _runtime_with_sha1(mixin: Any, server: Any) -> Any:
    """Return the Lua runtime of fakeredis, with the function of Redis that it lacks: ``redis.sha1hex``."""
    runtime = _runtime_of(mixin, server)
    runtime.globals().redis.sha1hex = lambda text: hashlib.sha1(text, usedforsecurity=False).hexdigest().encode()
    return runtime


ScriptingCommandsMixin._get_server_runtime = _runtime_with_sha1  # type: ignore[method-assign, assignment]


class RedisPyCommands:
    """``RedisCommands`` over ``fakeredis.FakeAsyncRedis`` (or another client that does not decode replies).

    It executes one command at a time, in the order of the calls, like one connection.
    """

    def __init__(self, client: Redis) -> None:
        self._client = client
        self._client.response_callbacks.clear()  # keep replies raw
        self._waiting: deque[tuple[asyncio.Future[Any], tuple[Argument, ...], Script | None]] = deque()
        self._worker: asyncio.Task[None] | None = None
        self._closed = False
        self.generation = 0
        """See ``RedisNode.generation``; tests increment it."""

    async def open(self) -> None:
        """Do nothing: the client connects by itself."""

    async def close(self) -> None:
        """See ``RedisCommands.close``. The caller closes the redis-py client."""
        self._closed = True
        if self._worker is not None:
            self._worker.cancel()
            await asyncio.gather(self._worker, return_exceptions=True)
        while self._waiting:
            future, _, _ = self._waiting.popleft()
            if not future.done():
                future.set_exception(RedisUnavailable("the link is closed"))

    def call(self, *args: Argument) -> asyncio.Future[Any]:
        """See ``RedisCommands.call``."""
        return self._issue(args, None)

    def call_on_connection(self, *args: Argument) -> asyncio.Future[Any]:
        """See ``RedisNode.call_on_connection``. The connection never ends."""
        return self.call(*args)

    def evalsha(self, script: Script, keys: Sequence[Argument], args: Sequence[Argument]) -> asyncio.Future[Any]:
        """See ``RedisCommands.evalsha``."""
        return self._issue(("EVALSHA", script.sha, len(keys), *keys, *args), script)

    def run(self, call: ScriptCall) -> asyncio.Future[Any]:
        """See ``RedisCommands.run``."""
        script, packed = call
        return self._issue(_unpacked(packed), script)

    async def run_many(self, calls: Sequence[ScriptCall]) -> list[Any]:
        """See ``RedisCommands.run_many``."""
        return await asyncio.gather(*map(self.run, calls), return_exceptions=True)

    async def call_many(self, commands: Sequence[Command]) -> list[Any]:
        """See ``RedisCommands.call_many``."""
        return await asyncio.gather(*(self.call(*command) for command in commands), return_exceptions=True)

    @property
    def name(self) -> str:
        """See ``RedisNode.name``."""
        return "redis-py"

    @property
    def connected(self) -> bool:
        """See ``RedisNode.connected``."""
        return not self._closed

    @property
    def server_id(self) -> None:
        """See ``RedisNode.server_id``: unknown."""

    @property
    def connected_for_s(self) -> float:
        """See ``RedisNode.connected_for_s``: redis-py does not report it."""
        return 0.0

    @property
    def nodes(self) -> Sequence[RedisNode]:
        """See ``RedisCommands.nodes``."""
        return (self,)

    def group_by_node(self, keys: Sequence[Argument]) -> list[KeyGroup]:
        """See ``RedisCommands.group_by_node``."""
        return [KeyGroup(self, range(len(keys)))] if keys else []

    async def load(self, scripts: Sequence[Script]) -> None:
        """See ``RedisCommands.load``. There are no reconnects."""
        await asyncio.gather(*(self.call("SCRIPT", "LOAD", script.source) for script in scripts))

    def _issue(self, args: tuple[Argument, ...], script: Script | None) -> asyncio.Future[Any]:
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        if self._closed:
            future.set_exception(RedisUnavailable("the link is closed"))
            return future
        self._waiting.append((future, args, script))
        if self._worker is None or self._worker.done():
            self._worker = asyncio.get_running_loop().create_task(self._work())
        return future

    async def _work(self) -> None:
        while self._waiting:
            future, args, script = self._waiting[0]
            error: Exception | None
            try:
                reply, error = await self._carry_out(args, script), None
            except redis.exceptions.ConnectionError as failure:
                reply, error = None, RedisUnavailable(str(failure))
            except redis.exceptions.RedisError as failure:
                reply, error = None, _reply_error(failure)
            self._waiting.popleft()
            if not future.done():
                if error is None:
                    future.set_result(reply)
                else:
                    future.set_exception(error)

    async def _carry_out(self, args: tuple[Argument, ...], script: Script | None) -> Any:
        try:
            return _raw(await self._client.execute_command(*args))
        except redis.exceptions.NoScriptError:
            if script is None:
                raise
        await self._client.execute_command("SCRIPT LOAD", script.source)
        return _raw(await self._client.execute_command(*args))


def _unpacked(packed: bytes) -> tuple[Argument, ...]:
    """Return the arguments of a packed command, which has the same form as a reply."""
    reader = hiredis.Reader()
    reader.feed(packed)
    arguments: list[bytes] = reader.gets()
    return tuple(arguments)


def _reply_error(error: redis.exceptions.RedisError) -> ReplyError:
    text = str(error)
    first_word = text.partition(" ")[0]
    if first_word.isupper():
        return ReplyError(text)
    code = next((code for kind, code in _CODES.items() if isinstance(error, kind)), "ERR")
    return ReplyError(f"{code} {text}")


def _raw(reply: Any) -> Any:
    """Return a reply in the form of the wire protocol."""
    match reply:
        case str():
            return reply.encode()
        case bool():
            return int(reply)
        case float():
            return repr(reply).encode()
        case list() | tuple():
            return [_raw(part) for part in reply]
        case redis.exceptions.RedisError():
            return _reply_error(reply)
        case _:
            return reply
