"""Connections: slow consumers, the order of tasks, presence, the end."""

from __future__ import annotations

import asyncio
import copy
from dataclasses import replace
from typing import Any

import pytest

from gregor.core.close_codes import CloseCode
from gregor.core.items.sync import View
from gregor.core.messages.delayed import DelayedMessage
from gregor.core.messages.model import Sender
from gregor.store.contract.store import Unavailable
from gregor.store.delayed_senders import CHECK_INTERVAL_S
from gregor_gateway.protocol.hello import Hello
from gregor_gateway.protocol.session import SessionState
from tests.support.builders import LIMITS
from tests.support.wait import wait_until
from tests.unit.gateway.conftest import Gateway, LocalDevice, settle


def in_order(device: LocalDevice) -> bool:
    return device.seqs == sorted(set(device.seqs))


async def test_slow_consumer_gets_one_sync(gateway: Gateway) -> None:
    await gateway.create("old")
    slow, quick = await gateway.connect(), await gateway.connect()
    await gateway.create("first")
    await settle()
    slow.connection.pause()
    for number in range(100):
        await gateway.create(f"i{number}")
        await settle(3)

    assert slow.kinds == ["create"]
    assert slow.connection.session.state is SessionState.BEHIND
    assert gateway.context.metrics.overflows._value.get() == 1
    slow.connection.resume()
    await slow.until("delta")

    assert slow.kinds == ["create", "delta"]
    assert len(slow.frames[1]["body"]["create"]) == 100
    assert in_order(slow)
    assert in_order(quick)
    assert quick.seqs[-1] == slow.seqs[-1] == 102
    await gateway.create("last")
    await settle()
    assert slow.kinds[-1] == "create"


async def test_short_pause_drops_no_frame(gateway: Gateway) -> None:
    slow = await gateway.connect()
    slow.connection.pause()
    for number in range(5):
        await gateway.create(f"i{number}")
    await settle()
    slow.connection.resume()
    await settle()

    assert slow.kinds == ["create"] * 5


async def test_frames_wait_behind_an_unread_sync(gateway: Gateway) -> None:
    slow = await gateway.connect()
    slow.connection.pause()
    slow.send(resync=True)
    await settle()
    await gateway.create("aa")
    await settle()
    assert slow.frames == []

    slow.connection.resume()
    await settle()

    assert slow.kinds == ["full", "create"]
    assert slow.writes[-2:] == [[slow.writes[-2][0]], [slow.writes[-1][0]]]


@pytest.mark.parametrize("cause", ["overflow", "sync"])
async def test_slow_consumer_is_closed_after_30_seconds(gateway: Gateway, cause: str) -> None:
    slow = await gateway.connect()
    slow.connection.pause()
    if cause == "sync":
        slow.send(resync=True)
    else:
        for number in range(100):
            await gateway.create(f"i{number}")
    await settle()

    gateway.pass_time(29)
    assert slow.closed is None
    gateway.pass_time(1.3)
    assert slow.closed == 4002


async def test_undroppable_overflow_closes_with_4002(gateway: Gateway) -> None:
    slow = await gateway.connect()
    slow.connection.pause()

    for number in range(1_000):
        slow.send(ping=number)

    assert slow.closed == 4002


async def test_several_frames_share_one_write(gateway: Gateway) -> None:
    phone = await gateway.connect()
    phone.writes.clear()

    for number in range(4):
        await gateway.create(f"i{number}")
    await settle()

    assert [len(write) for write in phone.writes] == [4]


async def test_flooding_client_is_not_read(gateway: Gateway) -> None:
    gateway.rules = replace(gateway.rules, queue_bytes=100_000)
    phone = await gateway.connect()
    for number in range(100):
        phone.send(ref=number, system="gregor", body={"create": {f"i{number}": {"category": "mail"}}})
    assert phone.is_held

    await wait_until(lambda: phone.kinds.count("receipt") + phone.kinds.count("problem") == 100, "all answers")

    assert not phone.is_held
    assert phone.kinds.count("receipt") == 50
    refused = [frame["problem"] for frame in phone.frames if "problem" in frame]
    assert {problem["code"] for problem in refused} == {"rate_limited"}
    assert 0 < refused[0]["retry_after_ms"] <= 1_000


async def test_device_is_present_while_connected(gateway: Gateway) -> None:
    one, two = await gateway.connect(), await gateway.connect(hello=Hello(foreground=True))
    devices = gateway.store.devices

    async def presence() -> tuple[bool, bool]:
        (found,) = await devices.presence(["alice"], gateway.clock.now_us())
        return found.online, found.foreground

    assert await presence() == (True, True)
    two.send(foreground=False)
    await settle()
    assert await presence() == (True, False)
    one.connection.close(4001)
    two.connection.close(4001)
    await settle()
    assert await presence() == (False, False)


async def test_heartbeat_renews_the_lease(gateway: Gateway) -> None:
    gateway.context.presence.start()
    await gateway.connect()

    for _ in range(200):
        gateway.pass_time(1)
        await settle(3)

    (found,) = await gateway.store.devices.presence(["alice"], gateway.clock.now_us())
    assert found.online


async def test_ack_is_stored_up_to_the_sent_seq(gateway: Gateway) -> None:
    phone = await gateway.connect()
    await gateway.create("aa")
    await settle()
    for seq in (1, 99):
        phone.send(ack=seq)
    await settle()

    view = View("phone")
    assert await gateway.store.devices.acknowledged("alice") == {view: 1}


async def stored_acks(gateway: Gateway) -> list[int]:
    """Return the seq of each acknowledgement that was stored, in order."""
    return [each.until for each in await gateway.store.devices.acknowledgements("alice")]


async def test_acks_of_a_fifth_of_a_second_are_one(gateway: Gateway) -> None:
    """Each costs Redis up to 0.4 ms, and a device may send 400 frames a second. The highest is stored."""
    phone = await gateway.connect()
    for n in range(9):
        await gateway.create(f"i{n}")
    await settle()

    for seq in (1, 2, 5, 3):
        phone.send(ack=seq)
        await settle()
    at_once = await stored_acks(gateway)
    gateway.pass_time(0.3)
    phone.send(ack=6)
    await settle()
    later = await stored_acks(gateway)
    gateway.pass_time(0.3)
    await settle()
    last = await stored_acks(gateway)
    gateway.pass_time(0.3)
    phone.send(ack=7)
    await settle()

    assert (at_once, later, last) == ([1], [1, 5], [1, 5, 6])
    assert await stored_acks(gateway) == [1, 5, 6, 7]


async def test_lower_ack_does_not_replace_a_queued_one(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    phone = await gateway.connect()
    for n in range(9):
        await gateway.create(f"i{n}")
    await settle()
    is_back, commit = asyncio.Event(), gateway.store.users.commit

    async def slow(*asked: Any) -> Any:
        await is_back.wait()
        return await commit(*asked)

    monkeypatch.setattr(gateway.store.users, "commit", slow)
    phone.send(ref=1, system="gregor", body={"create": {"mine": {"category": "mail"}}})
    for seq in (8, 5):
        phone.send(ack=seq)
        gateway.pass_time(0.3)
    is_back.set()
    await settle()

    assert await stored_acks(gateway) == [8]


@pytest.mark.parametrize("code", [None, 4001, 4002])
async def test_ack_before_a_close_is_stored(gateway: Gateway, code: int | None) -> None:
    """Also if it waits for the end of its interval. ``None``: the client leaves."""
    phone = await gateway.connect()
    await gateway.create("aa")
    await gateway.create("bb")
    await settle()
    phone.send(ack=1)
    await settle()
    phone.send(ack=2)

    if code is None:
        phone.connection.end()
    else:
        phone.connection.close(code)
    await settle()

    assert await stored_acks(gateway) == [1, 2]


async def refuse(*_: Any) -> None:
    raise Unavailable("down")


@pytest.mark.parametrize("ends_by", ["stay", "leave", "close"])
async def test_ack_is_stored_when_the_store_is_back(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch, ends_by: str
) -> None:
    """Also if the client has left meanwhile. The highest counts."""
    phone = await gateway.connect()
    for name in ("aa", "bb", "cc"):
        await gateway.create(name)
    await settle()

    with monkeypatch.context() as patched:
        patched.setattr(gateway.store.devices, "acknowledge", refuse)
        for seq in (1, 3, 2):
            phone.send(ack=seq)
            await settle()
        if ends_by == "leave":
            phone.connection.end()
        elif ends_by == "close":
            phone.connection.close(4001)
        for _ in range(20):
            gateway.pass_time(1)
            await settle()
    for _ in range(5):
        gateway.pass_time(1)
        await settle()

    assert await stored_acks(gateway) == [3]


async def test_ack_of_a_lost_history_is_dropped(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    """The store is back with an older history, which already has other items. They were not shown to the user."""
    phone = await gateway.connect()
    await gateway.create("aa")
    await settle()
    replica = copy.deepcopy(gateway.store._data.users["alice"])
    await gateway.create("bb")
    await settle()

    with monkeypatch.context() as patched:
        patched.setattr(gateway.store.devices, "acknowledge", refuse)
        phone.send(ack=2)
        await settle()
    gateway.store._data.users["alice"] = replica
    gateway.feed.interrupt()
    await gateway.create("cc")
    await gateway.create("dd")
    gateway.feed.reconnect("other")
    await phone.until("full")
    for _ in range(6):
        gateway.pass_time(1)
        await settle()

    assert await stored_acks(gateway) == []


async def test_ack_before_a_drain_is_stored(gateway: Gateway) -> None:
    phone = await gateway.connect()
    await gateway.create("aa")
    await gateway.create("bb")
    await settle()
    for seq in (1, 2):
        phone.send(ack=seq)
        await settle()

    phone.connection.drain(0, "shutdown")
    gateway.pass_time(0.1)
    await settle()

    assert await stored_acks(gateway) == [1, 2]


async def test_waiting_ack_of_a_revoked_token_is_dropped(gateway: Gateway) -> None:
    phone = await gateway.connect()
    await gateway.create("aa")
    await gateway.create("bb")
    await settle()
    for seq in (1, 2):
        phone.send(ack=seq)
        await settle()

    await gateway.store.devices.revoke("alice", "phone", gateway.clock.now_us() + 1, gateway.clock.now_us())
    await settle()

    assert phone.closed == CloseCode.REVOKED
    assert await stored_acks(gateway) == [1]


async def test_newer_connection_replaces_its_session(gateway: Gateway) -> None:
    old = await gateway.connect(hello=Hello(session="tab-1"))
    beside = await gateway.connect(hello=Hello(session="tab-2"))

    await gateway.connect(hello=Hello(session="tab-1"))
    await settle()

    assert (old.closed, beside.closed) == (4504, None)


async def test_ninth_connection_closes_the_oldest(gateway: Gateway) -> None:
    lines = []
    for _ in range(9):
        lines.append(await gateway.connect())
        gateway.clock.advance(0.01)
    await settle()

    assert [device.closed for device in lines] == [4505] + [None] * 8


async def test_too_many_devices_is_closed_with_4505(gateway: Gateway) -> None:
    for number in range(64):
        await gateway.connect(f"d{number}")

    device = gateway.dial("one-more")

    await wait_until(lambda: device.closed == 4505, "the close")


async def test_revoked_token_is_closed_after_subscribing(gateway: Gateway) -> None:
    await gateway.store.devices.revoke("alice", None, gateway.clock.now_us() + 1, gateway.clock.now_us())

    device = gateway.dial()

    await wait_until(lambda: device.closed == 4502, "the close")
    assert gateway.context.hub.channels == {}


async def test_forbidden_messages_are_problems(gateway: Gateway) -> None:
    phone = await gateway.connect(category_filter=("mail",))
    phone.send(ref=1, system="gregor", body={"flush": True})
    phone.send(ref=2, system="gregor", device="laptop", body={"dismiss": {"ids": ["aa"]}})
    phone.send(ref=3, system="gregor", body={"create": {"aa": {"category": "web"}}})
    phone.send(ref=4, system="gregor", body={"creat": {}})
    phone.send(ref=5, system="gregor", body={"create": {"aa": {"category": "mail", "body": "x" * 300_000}}})
    await phone.until("problem", 5)

    assert [(frame["ref"], frame["problem"]["code"]) for frame in phone.frames] == [
        (1, "forbidden"),
        (2, "forbidden"),
        (3, "category_not_allowed"),
        (4, "unknown_field"),
        (5, "message_too_large"),
    ]


async def test_repeat_with_a_token_of_other_limits_is_a_problem_if_it_would_do_more(gateway: Gateway) -> None:
    await gateway.create("aa", category="mail")
    await gateway.create("bb", category="web")
    body = {"dismiss": {"ids": ["aa", "bb"], "intervals": [{"category": "mail", "begin": 0}]}}
    later = gateway.clock.now_us() // 1_000_000 + 60
    codes = []
    for limits in (("mail",), ("mail",), None):
        phone = await gateway.connect(category_filter=limits)
        phone.send(ref=1, id="now", system="gregor", body=body)
        phone.send(ref=2, id="later", system="gregor", body=body, not_before=later)
        await wait_until(lambda phone=phone: len(answers(phone)) == 2, "the answers")
        codes.append([frame["problem"]["code"] if "problem" in frame else "" for frame in answers(phone)])

    assert codes == [["", ""], ["", ""], ["id_reused", "id_reused"]]


async def test_delayed_message_gets_the_room_of_those_without_a_sender(gateway: Gateway) -> None:
    later, most = gateway.clock.now_us() // 1_000_000 + 60, LIMITS.delayed
    key, _ = await gateway.store.access.create_key(["ingest"])
    for number in range(most):
        document = {"id": f"m{number}", "not_before": later, "system": "gregor", "body": {}}
        stored = DelayedMessage(document, Sender(), 1, (key.id,)).encode()
        await gateway.store.agenda.delay("alice", f"m{number}", stored, later * 1_000_000)
    phone = await gateway.connect()
    body = {"dismiss": {"ids": ["a"]}}

    phone.send(ref=1, id="new", system="gregor", body=body, not_before=later)
    await phone.until("problem", 1)
    await gateway.store.access.delete_key(key.id)
    gateway.clock.advance(CHECK_INTERVAL_S)
    phone.send(ref=2, id="new", system="gregor", body=body, not_before=later)
    await wait_until(lambda: len(answers(phone)) == 2, "the answers")

    refused, accepted = answers(phone)
    assert refused["problem"]["code"] == "state_full"
    assert "problem" not in accepted
    assert len(await gateway.store.agenda.list_delayed("alice")) == 1


def answers(device: LocalDevice) -> list[Any]:
    return [frame for frame in device.frames if "ref" in frame]


class UnavailableUsers:
    """A store of users that cannot be reached."""

    def __init__(self, users: object) -> None:
        self._users = users
        self.is_down = True

    def __getattr__(self, name: str) -> object:
        if self.is_down:
            raise Unavailable("down")
        return getattr(self._users, name)


async def test_store_outage_keeps_connected_devices(gateway: Gateway) -> None:
    await gateway.create("old")
    kept = await gateway.connect()
    gateway.feed.drop_next()
    await gateway.create("missed")
    users = gateway.store.users
    failing = UnavailableUsers(users)
    gateway.store._users = failing  # type: ignore[assignment]

    new = gateway.dial("laptop")
    await wait_until(lambda: new.closed == 4006, "the close")
    kept.send(ref=1, system="gregor", body={"create": {"aa": {"category": "mail"}}})
    refusal = await kept.until("problem")
    kept.send(resync=True)
    await settle()
    gateway.pass_time(3)
    await settle()
    failing.is_down = False
    for _ in range(3):
        gateway.pass_time(3)
        await settle()

    assert refusal["problem"]["code"] == "unavailable"
    assert refusal["problem"]["retry_after_ms"] > 0
    assert kept.closed is None
    assert kept.kinds[-1] == "full"


async def test_closed_connection_leaves_the_timer_wheel(gateway: Gateway) -> None:
    device = await gateway.connect()
    device.connection.close(4001)

    for _ in range(70):
        gateway.pass_time(1)
    await settle()

    assert not any(item is device.connection for bucket in gateway.context.timers._buckets.values() for item in bucket)
