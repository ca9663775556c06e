"""Who looks on with a service key is sent away soon after the key, or the secret that it used, is good no more."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest

from gregor.store import service_keys
from gregor.store.contract.store import Unavailable
from gregor_gateway.sessions.observers import EVERY_S
from tests.support.wait import wait_until
from tests.unit.gateway.conftest import House, Line, settle


async def delete(house: House, key_id: str) -> None:
    await house.store.access.delete_key(key_id)


async def rotate_out(house: House, key_id: str) -> None:
    """A new secret, that of the onlooker being good for a second more, which is over."""
    await house.store.access.rotate_key(key_id, house.clock.now_us() - 1_000_000, 1_000_000)


async def watcher(house: House, device: str = "") -> tuple[str, str, Line]:
    """A key, the mark of its secret, and who looks on with it and has seen what there is."""
    key, text = await house.store.access.create_key(["read"])
    mark = service_keys.mark_of(text.removeprefix(f"gk_{key.id}_"))
    line = house.look_on(device, key=key.id, secret=mark)
    await wait_until(lambda: line.frames, "the sync")
    return key.id, mark, line


@pytest.mark.parametrize("device", ["", "phone"])
@pytest.mark.parametrize("happens", [delete, rotate_out], ids=["deleted", "rotated out"])
async def test_who_looks_on_goes_with_its_key(
    house: House, happens: Callable[[House, str], Awaitable[None]], device: str
) -> None:
    await house.create("aa")
    key_id, _, line = await watcher(house, device)
    _, _, other = await watcher(house)
    phone = await house.connect()
    await happens(house, key_id)

    house.pass_time(EVERY_S + 0.2)
    await wait_until(lambda: line.closed is not None, "the close")

    assert [line.closed, other.closed, phone.closed] == [4502, None, None]


async def test_a_key_that_is_rotated_keeps_who_looks_on_with_either_secret_while_both_work(house: House) -> None:
    await house.create("aa")
    key_id, _, old = await watcher(house)
    text = await house.store.access.rotate_key(key_id, house.clock.now_us(), 2 * round(EVERY_S * 1e6))
    mark = service_keys.mark_of((text or "").removeprefix(f"gk_{key_id}_"))
    new, unnoted = house.look_on(key=key_id, secret=mark), house.look_on(key=key_id)
    await wait_until(lambda: new.frames and unnoted.frames, "the syncs")

    seen = []
    for _ in range(3):
        house.pass_time(EVERY_S + 0.2)
        await settle()
        seen.append([old.closed, new.closed, unnoted.closed])

    assert seen == [[None, None, None], [4502, None, None], [4502, None, None]]


async def test_a_store_that_cannot_be_asked_sends_nobody_away_and_is_asked_again(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    await house.create("aa")
    key_id, _, line = await watcher(house)
    await delete(house, key_id)

    async def down(*_: object) -> None:
        raise Unavailable("down")

    with monkeypatch.context() as broken:
        broken.setattr(type(house.store.access), "key", down)
        house.pass_time(EVERY_S + 0.2)
        await settle()
    assert line.closed is None
    house.pass_time(EVERY_S + 0.2)
    await wait_until(lambda: line.closed == 4502, "the close")


async def test_nothing_is_asked_for_who_left(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    await house.create("aa")
    _, _, line = await watcher(house)
    asked: list[str] = []

    async def listen(_: object, key_id: str) -> None:
        asked.append(key_id)

    line.connection.ended()
    with monkeypatch.context() as heard:
        heard.setattr(type(house.store.access), "key", listen)
        for _ in range(3):
            house.pass_time(EVERY_S + 0.2)
            await settle()

    assert asked == []
