"""Helpers of the tests of devices: stores, sessions, recorded control messages."""

import json
import re
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from gregor.core.limits import SECOND_US, Limits
from gregor.redis.commands import RedisCommands
from gregor.redis.pubsub import RedisPubSub
from gregor.store.contract.devices import DeviceSession, PresenceStatus
from gregor.store.redis.devices.device_state import RedisDevices
from gregor.store.redis.keys import Keys
from gregor.store.redis.store import RedisStore

NOW_US = 1_800_000_000 * SECOND_US
LEASE_US = 60 * SECOND_US
SEED = b"\1\2\3"
APNS = {"provider": "apns", "token": "a1b2c3", "topic": "org.example", "sandbox": False}
WEB = {"provider": "webpush", "token": {"endpoint": "https://push.example/1", "keys": {"p256dh": "k", "auth": "a"}}}


@dataclass(frozen=True)
class RedisSetup:
    """A connection on which a store can be made. ``url`` is ``None`` if no other client can connect (fakeredis)."""

    connection: RedisCommands
    keys: Keys
    url: str | None
    allow_oom: bool

    async def ttl_ms(self, key: str) -> int:
        """Return the TTL of a key: -1 without one, -2 if the key is missing."""
        return int(await self.connection.call("PTTL", key))


def make_store(setup: RedisSetup, limits: Limits | None = None) -> RedisStore:
    """Return a store in the namespace of the test."""
    return RedisStore(setup.connection, limits or Limits(), setup.keys.namespace, allow_oom=setup.allow_oom)


async def count_calls(setup: RedisSetup, call: Awaitable[object]) -> dict[str, int]:
    """Return how often each command was called inside scripts during ``call``."""
    await setup.connection.call("CONFIG", "RESETSTAT")
    await call
    stats = (await setup.connection.call("INFO", "commandstats")).decode()
    counted = {name: int(count) for name, count in re.findall(r"cmdstat_(\w+):calls=(\d+)", stats)}
    return {name: count for name, count in counted.items() if name not in {"evalsha", "info", "config"}}


def make_devices(setup: RedisSetup, limits: Limits | None = None) -> RedisDevices:
    """Return the devices part of a store."""
    return make_store(setup, limits).devices


def session(name: str, connection: str = "c1", opened_us: int = NOW_US, *, foreground: bool = False) -> DeviceSession:
    """Return a session of gateway ``g1``."""
    return DeviceSession(name, connection, "g1", opened_us, foreground)


async def presence_of(devices: RedisDevices, device: str, now_us: int) -> PresenceStatus | None:
    """Return the presence of one of alice's devices."""
    found = await devices.device("alice", device, now_us)
    return found[1] if found else None


class ControlRecorder:
    """Records the control messages that it receives."""

    def __init__(self) -> None:
        self.controls: list[Any] = []

    def receive(self, payload: bytes) -> None:
        if payload[:1] == b"K":
            self.controls.append(json.loads(payload[1:]))

    def lost(self) -> None:
        raise AssertionError("nothing was lost")

    def gap(self, *, same_server: bool) -> None:
        raise AssertionError("nothing was lost")


@asynccontextmanager
async def recorded_controls(setup: RedisSetup, uid: str) -> AsyncIterator[list[Any]]:
    """Record the control messages of a user in a list."""
    assert setup.url is not None
    feed, recorder = RedisPubSub(setup.url, setup.connection), ControlRecorder()
    await feed.open()
    try:
        await feed.subscribe(setup.keys.of_user(uid).channel, recorder)
        yield recorder.controls
    finally:
        await feed.close()
