"""Push tokens and their owners agree after any concurrent requests, in any order of their commands.

A registration and the owner of its push token are in different slots of Redis. ``Interleaving`` executes the commands
of concurrent requests one by one, in an order that Hypothesis chooses.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import suppress
from typing import Any

from fakeredis import FakeAsyncRedis
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gregor.core.errors import Problem
from gregor.store.contract.devices import Registration
from gregor.store.contract.store import Unavailable
from gregor.store.redis.keys import Keys
from tests.support.redis_py_commands import RedisPyCommands
from tests.unit.store.redis_setup import APNS, NOW_US, SEED, RedisSetup, make_store

UIDS = ("alice", "bob")
DEVICES = ("phone", "tablet")
TOKENS = ("aa", "bb")


class Interleaving:
    """A connection whose commands wait until ``run`` chooses them."""

    def __init__(self, connection: RedisPyCommands) -> None:
        self._connection = connection
        self._waiting: list[tuple[asyncio.Future[Any], Callable[[], Awaitable[Any]]]] = []

    def call(self, *args: Any) -> asyncio.Future[Any]:
        return self._wait(lambda: self._connection.call(*args))

    def evalsha(self, *args: Any) -> asyncio.Future[Any]:
        return self._wait(lambda: self._connection.evalsha(*args))

    def run(self, call: Any) -> asyncio.Future[Any]:
        return self._wait(lambda: self._connection.run(call))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)

    def _wait(self, send: Callable[[], Awaitable[Any]]) -> asyncio.Future[Any]:
        reply: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._waiting.append((reply, send))
        return reply

    async def execute(self, requests: list[Coroutine[Any, Any, None]], choices: list[int]) -> None:
        """Run requests to their end, one command at a time. Each choice is the place of the next command."""
        tasks = [asyncio.create_task(each) for each in requests]
        step = 0
        while not all(task.done() for task in tasks):
            for _ in range(8):  # until every request waits for a command
                await asyncio.sleep(0)
            if not self._waiting:
                continue
            reply, send = self._waiting.pop(choices[step % len(choices)] % len(self._waiting))
            step += 1
            try:
                reply.set_result(await send())
            except Exception as error:  # a reply of the server, such as NOSCRIPT
                reply.set_exception(error)
        await asyncio.gather(*tasks)


class Interrupted:
    """A connection that fails after a number of commands."""

    def __init__(self, connection: Interleaving, commands: int) -> None:
        self._connection = connection
        self._left = commands

    def call(self, *args: Any) -> asyncio.Future[Any]:
        self._count()
        return self._connection.call(*args)

    def evalsha(self, *args: Any) -> asyncio.Future[Any]:
        self._count()
        return self._connection.evalsha(*args)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)

    def _count(self) -> None:
        if not self._left:
            raise Unavailable("the server is away")
        self._left -= 1


async def request(store: Any, now_us: int, kind: str, uid: str, device: str, token: str | None) -> None:
    """Execute one request."""
    match kind:
        case "put":
            push = None if token is None else {**APNS, "token": token}
            await store.devices.put_device(uid, device, Registration("ios", push), now_us)
        case "forget":
            await store.devices.forget_device(uid, device, now_us, SEED)
        case "dead token":
            if (found := await store.devices.device(uid, device, now_us)) is not None:
                await store.devices.remove_push(uid, device, found[0])
        case "revoke":
            await store.devices.revoke(uid, None, now_us, now_us)
        case _:
            await store.users.delete_user(uid, now_us)


def requests_of(*kinds: str, uids: Sequence[str] = UIDS) -> st.SearchStrategy[Any]:
    """Return requests of these kinds."""
    return st.tuples(*map(st.sampled_from, (kinds, uids, DEVICES, (*TOKENS, None))))


REQUESTS = requests_of("put", "put", "put", "put", "forget", "dead token", "delete", "revoke")
REMOVALS = requests_of("forget", "dead token", "delete", "revoke", uids=UIDS[:1])


async def check(before: list[Any], requests: list[Any], choices: list[int]) -> None:
    client = FakeAsyncRedis()
    connection = RedisPyCommands(client)
    try:
        setup = RedisSetup(connection, Keys("test"), None, allow_oom=False)
        store = make_store(setup)
        with suppress(Problem):
            for n, each in enumerate(before):
                await request(store, NOW_US + n, *each)
        interleaved: Any = Interleaving(connection)
        busy = make_store(RedisSetup(interleaved, setup.keys, None, allow_oom=False))
        begun_us = NOW_US + len(before)
        await interleaved.execute([request(busy, begun_us + n, *each) for n, each in enumerate(requests)], choices)

        names = {hashlib.sha256(f"apns:{token}".encode()).hexdigest(): token for token in TOKENS}
        owners = {
            (names[key.decode().rpartition(":")[2]], *(await connection.call("GET", key)).decode().split("\0"))
            for key in await connection.call("KEYS", "test:push:*")
        }
        registered = {
            (kept.push["token"], uid, device)
            for uid in UIDS
            for device, (kept, _) in (await store.devices.list_devices(uid, NOW_US)).items()
            if kept.push is not None
        }
        assert owners == registered
    finally:
        await connection.close()
        await client.aclose()


async def check_interrupted(
    before: list[Any], requests: list[Any], removals: list[tuple[Any, int]], choices: list[int]
) -> None:
    client = FakeAsyncRedis()
    connection = RedisPyCommands(client)
    try:
        setup = RedisSetup(connection, Keys("test"), None, allow_oom=False)
        store = make_store(setup)
        for n, each in enumerate(before):
            await request(store, NOW_US + n, *each)
        interleaved: Any = Interleaving(connection)
        busy = make_store(RedisSetup(interleaved, setup.keys, None, allow_oom=False))
        begun = [request(busy, NOW_US + 10 + n, *each) for n, each in enumerate(requests)]
        for n, (each, commands) in enumerate(removals):
            interrupted: Any = Interrupted(interleaved, commands)
            ending = make_store(RedisSetup(interrupted, setup.keys, None, allow_oom=False))
            begun.append(until_unavailable(request(ending, NOW_US + 20 + n, *each)))
        await interleaved.execute(begun, choices)

        for uid in UIDS:
            await store.users.delete_user(uid, NOW_US + 30)

        assert await connection.call("KEYS", "test:push:*") == []
    finally:
        await connection.close()
        await client.aclose()


async def until_unavailable(removal: Coroutine[Any, Any, None]) -> None:
    with suppress(Unavailable):
        await removal


@settings(max_examples=200, deadline=None)
# Bob is deleted while alice's request has taken the token from his registration, and his request has it back.
@example(
    before=[("put", "bob", "phone", "aa")],
    requests=[
        ("put", "alice", "tablet", "aa"),
        *[("put", "alice", "tablet", None)] * 2,
        ("put", "bob", "phone", "aa"),
        ("delete", "bob", "phone", None),
        ("forget", "bob", "tablet", "aa"),
    ],
    choices=[0, 3],
)
@given(
    before=st.lists(REQUESTS, max_size=2),
    requests=st.lists(REQUESTS, min_size=2, max_size=4),
    choices=st.lists(st.integers(0, 3), min_size=1, max_size=30),
)
def test_concurrent_requests_leave_exactly_the_registered_owners(
    before: list[Any], requests: list[Any], choices: list[int]
) -> None:
    """Of each token, a device owns it if and only if it is in the registration of the device."""
    asyncio.run(check(before, requests, choices))


@settings(max_examples=200, deadline=None)
@given(
    before=st.lists(requests_of("put"), max_size=2),
    requests=st.lists(requests_of("put", uids=UIDS[1:]), max_size=2),
    removals=st.lists(st.tuples(REMOVALS, st.integers(0, 12)), min_size=1, max_size=2),
    choices=st.lists(st.integers(0, 3), min_size=1, max_size=30),
)
def test_repeated_deletion_finds_the_owners_of_interrupted_removals(
    before: list[Any], requests: list[Any], removals: list[tuple[Any, int]], choices: list[int]
) -> None:
    """Revocations, deletions and removals of devices end after any command, while another user takes the tokens."""
    asyncio.run(check_interrupted(before, requests, removals, choices))
