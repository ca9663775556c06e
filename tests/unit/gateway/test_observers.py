"""An observer is closed soon after its service key is deleted, or its secret is rotated out."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest

from gregor.store import service_keys
from gregor.store.contract.store import Unavailable
from gregor_gateway.sessions.observers import EVERY_S
from tests.support.wait import wait_until
from tests.unit.gateway.conftest import Gateway, LocalDevice, settle


async def delete(gateway: Gateway, key_id: str) -> None:
    await gateway.store.access.delete_key(key_id)


async def rotate_out(gateway: Gateway, key_id: str) -> None:
    """Rotate the key's secret; the observer's secret has already expired."""
    await gateway.store.access.rotate_key(key_id, gateway.clock.now_us() - 1_000_000, 1_000_000)


async def connect_observer(gateway: Gateway, device: str = "") -> tuple[str, str, LocalDevice]:
    """Create a key and connect an observer with it; return the key's id, the mark of its secret, and the observer."""
    key, text = await gateway.store.access.create_key(["read"])
    mark = service_keys.mark_of(text.removeprefix(f"gk_{key.id}_"))
    observer = gateway.observe(device, key=key.id, secret=mark)
    await wait_until(lambda: observer.frames, "the sync")
    return key.id, mark, observer


async def test_observers_of_a_user_with_one_key_are_bounded(gateway: Gateway) -> None:
    """One ticket opens any number of streams: each of them gets the next one."""
    await gateway.create("aa")
    key_id, mark, first = await connect_observer(gateway)
    _, _, of_other_key = await connect_observer(gateway)
    of_other_user = gateway.observe(uid="bob", key=key_id, secret=mark)
    most = gateway.context.limits.devices
    others = [gateway.observe(key=key_id, secret=mark) for _ in range(most)]
    await wait_until(lambda: all(each.frames for each in [*others, of_other_user]), "the syncs")

    assert first.closed == 4505
    assert [each.closed for each in [*others, of_other_key, of_other_user]] == [None] * (most + 2)
    others[0].connection.end()
    gateway.observe(key=key_id, secret=mark)
    await settle()
    assert [each.closed for each in others[1:]] == [None] * (most - 1)


@pytest.mark.parametrize("device", ["", "phone"])
@pytest.mark.parametrize("happens", [delete, rotate_out], ids=["deleted", "rotated out"])
async def test_observer_is_closed_when_its_key_ends(
    gateway: Gateway, happens: Callable[[Gateway, str], Awaitable[None]], device: str
) -> None:
    await gateway.create("aa")
    key_id, _, observer = await connect_observer(gateway, device)
    _, _, other = await connect_observer(gateway)
    phone = await gateway.connect()
    await happens(gateway, key_id)

    gateway.pass_time(EVERY_S + 0.2)
    await wait_until(lambda: observer.closed is not None, "the close")

    assert [observer.closed, other.closed, phone.closed] == [4502, None, None]


async def test_rotated_key_keeps_observers_during_overlap(gateway: Gateway) -> None:
    await gateway.create("aa")
    key_id, _, old = await connect_observer(gateway)
    text = await gateway.store.access.rotate_key(key_id, gateway.clock.now_us(), 2 * round(EVERY_S * 1e6))
    mark = service_keys.mark_of((text or "").removeprefix(f"gk_{key_id}_"))
    new, unnoted = gateway.observe(key=key_id, secret=mark), gateway.observe(key=key_id)
    await wait_until(lambda: new.frames and unnoted.frames, "the syncs")

    seen = []
    for _ in range(3):
        gateway.pass_time(EVERY_S + 0.2)
        await settle()
        seen.append([old.closed, new.closed, unnoted.closed])

    assert seen == [[None, None, None], [4502, None, None], [4502, None, None]]


async def test_store_outage_keeps_observers_and_retries(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    await gateway.create("aa")
    key_id, _, device = await connect_observer(gateway)
    await delete(gateway, key_id)

    async def down(*_: object) -> None:
        raise Unavailable("down")

    with monkeypatch.context() as broken:
        broken.setattr(type(gateway.store.access), "key", down)
        gateway.pass_time(EVERY_S + 0.2)
        await settle()
    assert device.closed is None
    gateway.pass_time(EVERY_S + 0.2)
    await wait_until(lambda: device.closed == 4502, "the close")


async def test_no_key_is_checked_after_observers_left(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    await gateway.create("aa")
    _, _, device = await connect_observer(gateway)
    asked: list[str] = []

    async def listen(_: object, key_id: str) -> None:
        asked.append(key_id)

    device.connection.end()
    with monkeypatch.context() as patched:
        patched.setattr(type(gateway.store.access), "key", listen)
        for _ in range(3):
            gateway.pass_time(EVERY_S + 0.2)
            await settle()

    assert asked == []
