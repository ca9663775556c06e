"""Items: creation, dismissal, expiry, reminders, and the rules that make repeats harmless (docs/semantics.md)."""

import asyncio
import time
from datetime import timedelta

import pytest

from gregor.client import AsyncProducer, ItemIgnored, Reminded, creation
from tests.support.wait import wait_until

from .conftest import DeviceFactory, shows


async def test_create(backend: AsyncProducer, device: DeviceFactory, uid: str) -> None:
    """An item that the backend creates appears on every connected device, whichever gateway it is connected to."""
    async with device("phone", gateway=0) as phone, device("laptop", gateway=1) as laptop:
        await phone.wait_until_synced()
        await laptop.wait_until_synced()

        await backend.create(uid, "mail", {"from": "bob"}, item_id="a")

        await shows(phone, "a")
        await shows(laptop, "a")
        assert laptop.state["a"]["body"] == {"from": "bob"}


async def test_dismiss_by_id(backend: AsyncProducer, device: DeviceFactory, uid: str) -> None:
    """An item that is dismissed on one device disappears from all."""
    async with device("phone") as phone, device("laptop", gateway=1) as laptop:
        await backend.create(uid, "mail", {"from": "bob"}, item_id="a")
        await shows(phone, "a")
        await shows(laptop, "a")

        await phone.dismiss("a")

        await shows(laptop)
        assert (await backend.state(uid))["items"] == {}


async def test_dismiss_by_category_and_time(backend: AsyncProducer, uid: str) -> None:
    """A dismissal can name a category and an interval of time instead of ids; other items stay."""
    start = time.time() - 100
    for number in range(4):
        await backend.create(uid, "mail", {"from": "bob"}, item_id=f"mail-{number}", created=start + number)
    await backend.create(uid, "alert", {"text": "disk full"}, item_id="alert", created=start)

    receipt = await backend.dismiss(uid, category="mail", end=start + 2, skip=["mail-1"])

    assert sorted(receipt.dismissed) == ["mail-0", "mail-2"]
    assert sorted((await backend.state(uid))["items"]) == ["alert", "mail-1", "mail-3"]


async def test_dismissed_items_never_return(backend: AsyncProducer, uid: str) -> None:
    """A dismissal is final: a creation that arrives later, or again, is ignored, and the client says so."""
    await backend.dismiss(uid, "a")

    with pytest.raises(ItemIgnored, match="dismissed"):
        await backend.create(uid, "mail", {"from": "bob"}, item_id="a")

    assert (await backend.state(uid))["items"] == {}


async def test_repeats_are_harmless(backend: AsyncProducer, uid: str) -> None:
    """A message that is sent twice has one effect: a backend may repeat a message that got no response."""
    message = creation("a", "mail", {"from": "bob"})

    first = await backend.send(uid, message)
    again = await backend.send(uid, message)

    assert (first.created, again.created) == (("a",), ())
    assert (again.unchanged, again.seq) == (True, first.seq)


async def test_items_for_one_device(backend: AsyncProducer, device: DeviceFactory, uid: str) -> None:
    """An item may be for one device; the other devices do not receive it."""
    async with device("phone") as phone, device("laptop") as laptop:
        await backend.create(uid, "mail", {"from": "bob"}, item_id="a", for_device="laptop")

        await shows(laptop, "a")
        await laptop.create("mail", {"from": "carol"}, item_id="b")
        await shows(phone, "b")


async def test_items_for_each_device(backend: AsyncProducer, device: DeviceFactory, uid: str) -> None:
    """An item for each device (``*``) is dismissed on every device separately."""
    async with device("phone") as phone, device("laptop") as laptop:
        await backend.create(uid, "mail", {"from": "bob"}, item_id="a", for_device="*")
        await shows(phone, "a")
        await shows(laptop, "a")

        await phone.dismiss("a")

        await shows(phone)
        await shows(laptop, "a")


async def test_expiry(backend: AsyncProducer, device: DeviceFactory, uid: str) -> None:
    """An item disappears at its ``expires``, from every device and from the server."""
    async with device("phone") as phone:
        await phone.wait_until_synced()
        await backend.create(uid, "mail", {"from": "bob"}, item_id="a", expires=timedelta(seconds=1))
        await shows(phone, "a")

        await shows(phone)

        assert (await backend.item(uid, "a"))["gone"]["reason"] == "expired"  # type: ignore[index]


async def test_reminders(backend: AsyncProducer, device: DeviceFactory, uid: str) -> None:
    """At each ``remind_at`` of an item, every device is reminded of it."""
    async with device("phone") as phone:
        await phone.wait_until_synced()
        changes = phone.changes()
        await backend.create(uid, "mail", {"from": "bob"}, item_id="a", remind_at=[timedelta(seconds=1)])

        async with asyncio.timeout(10):
            reminder = await anext(change async for change in changes if isinstance(change, Reminded))

        assert (reminder.id, list(phone.due)) == ("a", ["a"])


async def test_delayed_messages(backend: AsyncProducer, uid: str) -> None:
    """A message with ``not_before`` takes effect later, and can be cancelled until then."""
    later = time.time() + 1
    await backend.create(uid, "mail", {"from": "bob"}, item_id="a", not_before=later, message_id="m1")
    await backend.create(uid, "mail", {"from": "bob"}, item_id="b", not_before=later, message_id="m2")
    assert (await backend.state(uid))["items"] == {}

    assert await backend.cancel(uid, "m2")

    async def is_created() -> bool:
        return list((await backend.state(uid))["items"]) == ["a"]

    await wait_until(is_created, "the delayed item, without the cancelled one")
