"""What a hole in the channel swallowed: closes are found in the store, and who may stay stays."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest

from gregor.store.contract.store import Unavailable
from gregor_gateway.protocol.hello import Hello
from tests.support.wait import wait_until
from tests.unit.gateway.conftest import House, Line, settle


async def revoke(house: House) -> None:
    await house.store.devices.revoke("alice", "phone", house.clock.now_us(), house.clock.now_us())


async def forget_device(house: House) -> None:
    await house.store.devices.forget_device("alice", "phone", house.clock.now_us(), b"abc")


async def delete_user(house: House) -> None:
    await house.store.users.delete_user("alice", house.clock.now_us())


async def replace(house: House) -> None:
    lease = house.parts.hub.rooms["alice"].members[0].lease("elsewhere")
    newer = type(lease)(lease.session, "newer", "elsewhere", lease.opened_us + 1, False, None, None)
    await house.store.devices.open_session("alice", "phone", newer, house.clock.now_us(), 60_000_000)
    await house.store.devices.publish_control(
        "alice", {"close": {"device": "phone", "connection": "none", "code": 4504}}
    )


async def devices_of(house: House) -> tuple[Line, Line]:
    """The phone that is told to go, and the laptop that may stay; both are heard in a hole of the channel."""
    phone, laptop = await house.connect(hello=Hello(session="one")), await house.connect("laptop")
    house.feed.cut(house.store.channel_of("alice"))
    return phone, laptop


@pytest.mark.parametrize(
    ("happens", "code"),
    [(revoke, 4502), (forget_device, 4003), (replace, 4504)],
    ids=["revoked", "forgotten", "replaced"],
)
async def test_a_close_that_a_hole_swallowed_is_found_after_it(
    house: House, happens: Callable[[House], Awaitable[None]], code: int
) -> None:
    phone, laptop = await devices_of(house)
    await happens(house)
    await settle()
    before = phone.closed

    house.feed.heal()
    await wait_until(lambda: phone.closed is not None, "the close")
    await settle(100)

    assert [before, phone.closed, laptop.closed] == [None, code, None]


async def test_a_user_that_was_forgotten_in_a_hole_is_closed_everywhere(house: House) -> None:
    phone, laptop = await devices_of(house)
    await delete_user(house)
    await settle()

    house.feed.heal()
    await wait_until(lambda: phone.closed and laptop.closed, "the closes")

    assert (phone.closed, laptop.closed) == (4502, 4502)


@pytest.mark.parametrize("device", ["", "phone"])
async def test_who_looked_on_at_a_user_that_was_forgotten_in_a_hole_is_closed(house: House, device: str) -> None:
    await house.send({"create": {"aa": {"category": "mail"}}})
    await revoke(house)
    house.pass_time(1)
    watcher = house.look_on(device)
    await wait_until(lambda: watcher.frames, "the sync")
    await hole(house)
    assert watcher.closed is None, "what was revoked before does not concern it"

    house.feed.cut(house.store.channel_of("alice"))
    await delete_user(house)
    await settle()
    house.feed.heal()
    await wait_until(lambda: watcher.closed is not None, "the close")

    assert watcher.closed == 4502


async def hole(house: House) -> None:
    """A hole in which nothing happened."""
    house.feed.cut(house.store.channel_of("alice"))
    house.feed.heal()
    await settle(100)


async def test_a_store_that_cannot_be_asked_is_asked_again(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    phone, _ = await devices_of(house)
    await revoke(house)
    await settle()
    devices = house.store.devices

    async def down(*_: object) -> None:
        raise Unavailable("down")

    with monkeypatch.context() as broken:
        broken.setattr(type(devices), "revoked_before", down)
        house.feed.heal()
        await settle(100)
    assert phone.closed is None
    house.pass_time(1.2)
    await wait_until(lambda: phone.closed == 4502, "the close")


async def test_who_is_about_to_join_and_who_looks_on_is_let_be(house: House) -> None:
    phone = await house.connect()
    phone.connection.is_present = False  # as before it is told of, and as an onlooker
    await forget_device_of(house, "phone")

    house.parts.hub.rooms["alice"].gap()
    await settle(100)

    assert phone.closed is None


async def forget_device_of(house: House, device: str) -> None:
    """Forget it, with nobody told."""
    house.feed.drop_next(10)
    await house.store.devices.forget_device("alice", device, house.clock.now_us(), b"abc")
    house.feed.drop_next(0)
