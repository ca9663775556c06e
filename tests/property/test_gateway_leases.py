"""Presence by one lease a gateway gives the answers of presence by one lease a session, and notices deaths earlier.

The old rule is the model: every session has a lease of 60 seconds, and its gateway renews it every 20 seconds.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from fakeredis import FakeAsyncRedis
from hypothesis import given, settings
from hypothesis import strategies as st

from gregor.core.limits import SECOND_US, Limits
from gregor.reference.store.store import MemoryStore
from gregor.store.contract.devices import DeviceSession, Registration
from gregor.store.gateways import HELD_LEASE_US, NO_GATEWAY, REFRESH_S, RENEW_S
from gregor.store.redis.devices.device_codec import encode_lease
from gregor.store.redis.store import RedisStore
from tests.support.builders import NOW_US
from tests.support.redis_py_commands import RedisPyCommands

UID = "alice"
DEVICES, SESSIONS, GATEWAYS = ("phone", "desk"), ("s1", "s2"), ("g1", "g2", "g3")
LIMITS = Limits(connections=2)
OLD_LEASE_S, OLD_HEARTBEAT_S = 60, 20
MAX_STEPS = 13
OTHERS_OF_A_JOIN = 2
"""Leases of other devices that a join examines, if the user has many."""
NOTICED_S = 20
"""A death must be noticed within this time."""


@dataclass(frozen=True)
class Connect:
    device: str
    session: str
    gateway: str
    foreground: bool


@dataclass(frozen=True)
class Change:
    index: int
    foreground: bool


@dataclass(frozen=True)
class Close:
    index: int


@dataclass(frozen=True)
class Park:
    index: int


@dataclass(frozen=True)
class Kill:
    gateway: str


@dataclass(frozen=True)
class Pass:
    seconds: int


CONNECTS = st.builds(
    Connect, st.sampled_from(DEVICES), st.sampled_from(SESSIONS), st.sampled_from(GATEWAYS), st.booleans()
)
STEPS = st.one_of(
    CONNECTS,
    st.builds(Change, st.integers(0, 2), st.booleans()),
    st.builds(Close, st.integers(0, 2)),
    st.builds(Park, st.integers(0, 2)),
    st.builds(Kill, st.sampled_from(GATEWAYS)),
    st.builds(Pass, st.sampled_from([1, 3, 9, 11, 19, NOTICED_S, 21, 45, OLD_LEASE_S + 1])),
)


@dataclass
class World:
    """Both stores, the clock, the sessions that gateways hold, and the devices that had one between two polls."""

    old: MemoryStore
    new: RedisStore
    now_s: int = 0
    dead: dict[str, int] = field(default_factory=dict)
    held: list[tuple[str, DeviceSession]] = field(default_factory=list)
    parked: set[str] = field(default_factory=set)
    count: int = 0

    @property
    def now_us(self) -> int:
        return NOW_US + self.now_s * SECOND_US

    def observe(self) -> None:
        """Let the new store read the gateways, as late as a process does."""
        read_s = self.now_s - self.now_s % round(REFRESH_S)
        alive = {}
        for gateway in GATEWAYS:
            last_s = min(read_s, self.dead.get(gateway, read_s))
            alive[gateway] = NOW_US + (last_s - last_s % round(RENEW_S)) * SECOND_US
        self.new.gateways.live.observe(alive, NOW_US + read_s * SECOND_US, LIMITS.retention_us)

    async def connect(self, step: Connect) -> None:
        if step.gateway in self.dead:
            return
        self.count += 1
        opened = DeviceSession(step.session, f"c{self.count}", step.gateway, self.now_us, step.foreground)
        old, new = [
            await store.devices.open_session(UID, step.device, opened, self.now_us, lease_us)
            for store, lease_us in ((self.old, OLD_LEASE_S * SECOND_US), (self.new, HELD_LEASE_US))
        ]
        if self.is_settled:
            assert new == old
        gone = {session.connection for session, _ in (*old, *new)}
        self.held = [each for each in self.held if each[1].connection not in gone]
        self.held.append((step.device, opened))

    async def renew(self, device: str, session: DeviceSession, new_us: int = HELD_LEASE_US) -> None:
        for store, lease_us in ((self.old, OLD_LEASE_S * SECOND_US), (self.new, new_us)):
            await store.devices.renew_sessions([(UID, device, session)], self.now_us, lease_us)

    async def change(self, step: Change) -> None:
        if step.index < len(self.held):
            device, session = self.held[step.index]
            changed = _replaced(session, foreground=step.foreground)
            self.held[step.index] = device, changed
            await self.renew(device, changed)

    async def end(self, index: int, *, park: bool) -> None:
        if index >= len(self.held):
            return
        device, session = self.held.pop(index)
        if park:
            await self.renew(device, _replaced(session, gateway=NO_GATEWAY), OLD_LEASE_S * SECOND_US)
            return
        for store in (self.old, self.new):
            await store.devices.close_session(UID, device, session, self.now_us)

    def kill(self, gateway: str) -> None:
        self.dead.setdefault(gateway, self.now_s)
        self.held = [each for each in self.held if each[1].gateway != gateway]

    async def pass_time(self, seconds: int) -> None:
        """Only the old rule has heartbeats of sessions."""
        for _ in range(seconds):
            self.now_s += 1
            if self.now_s % OLD_HEARTBEAT_S == 0:
                entries = [(UID, device, session) for device, session in self.held]
                await self.old.devices.renew_sessions(entries, self.now_us, OLD_LEASE_S * SECOND_US)

    @property
    def is_settled(self) -> bool:
        """Whether both rules have noticed every death."""
        return all(self.now_s - at_s > OLD_LEASE_S for at_s in self.dead.values())

    async def check(self) -> None:
        self.observe()
        old, new = [await answers(store, self.now_us) for store in (self.old, self.new)]
        open_sessions = {device for device, _ in self.held}
        for device in DEVICES:
            (was, _), (became, _) = old[device], new[device]
            assert became.online <= was.online  # never longer online than by the old rule
            if device in open_sessions:
                assert was.online and became.online
        if self.is_settled:
            for device in DEVICES:
                assert new[device][0].online == old[device][0].online, device
                assert new[device][0].foreground == old[device][0].foreground, device
                assert new[device][1] == old[device][1], device
            tolerance_us = NOTICED_S * SECOND_US if self.dead else 0
            for times in zip(last_times(old), last_times(new), strict=True):
                assert (times[0] is None) == (times[1] is None)
                assert abs((times[0] or 0) - (times[1] or 0)) <= tolerance_us
        if self.dead and all(self.now_s - at_s >= NOTICED_S for at_s in self.dead.values()):
            for device in set(DEVICES) - open_sessions - self.parked:
                assert not new[device][0].online, device


def _replaced(session: DeviceSession, **fields: Any) -> DeviceSession:
    return replace(session, **fields)


async def answers(store: MemoryStore | RedisStore, now_us: int) -> dict[str, Any]:
    """Return presence and sessions of each device, and when the user last had a connection in the foreground."""
    found: dict[str, Any] = {}
    for device in DEVICES:
        known = await store.devices.device(UID, device, now_us)
        assert known is not None
        sessions = [await store.devices.session(UID, device, name, now_us) for name in SESSIONS]
        found[device] = known[1], sessions
    found["foreground"] = await store.devices.foreground_until(UID, now_us)
    return found


def last_times(found: dict[str, Any]) -> list[int | None]:
    """Return the times that a death blurs."""
    return [*(found[device][0].last_seen_us for device in DEVICES), found["foreground"]]


async def store_leases_of_other_devices(store: RedisStore, commands: RedisPyCommands) -> None:
    """Store so many old leases that the scripts read only those of one device, and never remove all of them."""
    lease = encode_lease(DeviceSession("s", "c", NO_GATEWAY, 0), 0, 0)
    fields = [part for n in range(2 * OTHERS_OF_A_JOIN * MAX_STEPS) for part in (f"other{n}\0s", lease)]
    await commands.call("HSET", store.keys.of_user(UID).presence, *fields)


@settings(deadline=None, max_examples=200)
@given(CONNECTS, st.lists(STEPS, max_size=MAX_STEPS - 1), st.booleans())
async def test_gateway_leases_answer_like_session_leases(first: Connect, steps: list[Any], has_others: bool) -> None:
    client = FakeAsyncRedis()
    commands = RedisPyCommands(client)
    world = World(MemoryStore(LIMITS), RedisStore(commands, LIMITS, allow_oom=False))
    for store in (world.old, world.new):
        for device in DEVICES:
            await store.devices.put_device(UID, device, Registration("ios"), world.now_us)
    if has_others:
        await store_leases_of_other_devices(world.new, commands)
    try:
        for step in (first, *steps):
            world.observe()
            match step:
                case Connect():
                    await world.connect(step)
                case Change():
                    await world.change(step)
                case Close(index):
                    await world.end(index, park=False)
                case Park(index):
                    if index < len(world.held):
                        world.parked.add(world.held[index][0])
                    await world.end(index, park=True)
                case Kill(gateway):
                    world.kill(gateway)
                case Pass(seconds):
                    await world.pass_time(seconds)
            await world.check()
    finally:
        await commands.close()
        await client.aclose()
