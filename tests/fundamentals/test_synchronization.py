"""Synchronization: a device that was away gets exactly what it missed, and can prove its copy (docs/semantics.md)."""

from gregor.client import AsyncProducer, Device, ExternalReceived, FlushAnnounced, Synced, digest_of
from tests.support.wait import wait_until

from .conftest import DeviceFactory, shows


async def first_sync(device: Device) -> Synced:
    """Connect a device and return the first sync object that it applies."""
    async with device:
        return await anext(change async for change in device.changes() if isinstance(change, Synced))


async def test_resume_after_absence(backend: AsyncProducer, device: DeviceFactory, uid: str) -> None:
    """A device that was away resumes from its cursor and gets only the difference."""
    for number in range(20):
        await backend.create(uid, "mail", {"from": "bob"}, item_id=f"old-{number}")
    async with device("phone") as phone:
        await phone.wait_until_synced()
        snapshot = phone.snapshot()
    await backend.create(uid, "mail", {"from": "carol"}, item_id="new")
    await backend.dismiss(uid, "old-0")

    returned = device("phone", restore=snapshot)

    assert await first_sync(returned) == Synced("delta", is_proven=True)
    assert sorted(returned.items) == sorted(["new", *(f"old-{number}" for number in range(1, 20))])


async def test_resume_without_news(backend: AsyncProducer, device: DeviceFactory, uid: str) -> None:
    """A device that missed nothing gets an answer of about a hundred bytes and no items."""
    await backend.create(uid, "mail", {"from": "bob"}, item_id="a")
    async with device("phone") as phone:
        await phone.wait_until_synced()
        snapshot = phone.snapshot()

    returned = device("phone", restore=snapshot)

    assert (await first_sync(returned)).kind == "unchanged"
    assert list(returned.items) == ["a"]


async def test_digests_prove_copies(backend: AsyncProducer, device: DeviceFactory, uid: str) -> None:
    """Server and device compute the same digest from the same items, which exposes any difference."""
    await backend.create(uid, "mail", {"from": "bob"}, item_id="a")
    async with device("phone") as phone:
        await shows(phone, "a")

        state = await backend.state(uid)

        assert state["digest"] == phone.digest == digest_of(state["items"])


async def test_offline_messages_are_kept(backend: AsyncProducer, device: DeviceFactory, uid: str) -> None:
    """A dismissal without a connection shows at once, is kept in the outbox, and is sent after the reconnect."""
    await backend.create(uid, "mail", {"from": "bob"}, item_id="a")
    async with device("phone") as phone:
        await shows(phone, "a")
    phone.post({"system": "gregor", "body": {"dismiss": {"ids": ["a"]}}})
    assert (list(phone.state), phone.pending) == ([], 1)

    async with device("phone", restore=phone.snapshot()) as restarted:
        await restarted.wait_until_sent()

    assert (await backend.state(uid))["items"] == {}


async def test_filtered_views(backend: AsyncProducer, device: DeviceFactory, uid: str) -> None:
    """A device may ask for some categories only; it never receives the others."""
    async with device("watch", category_prefix=["alert"]) as watch:
        await watch.wait_until_synced()
        await backend.create(uid, "mail", {"from": "bob"}, item_id="a")
        await backend.create(uid, "alert", {"text": "disk full"}, item_id="b")

        await shows(watch, "b")


async def test_reset_keeps_the_screen(backend: AsyncProducer, device: DeviceFactory, uid: str) -> None:
    """After a reset of the user, devices keep what they show until a full copy has arrived."""
    await backend.create(uid, "mail", {"from": "bob"}, item_id="a")
    async with device("phone") as phone:
        await shows(phone, "a")
        changes = phone.changes()

        await backend.reset_user(uid)

        announced = await anext(change async for change in changes if isinstance(change, FlushAnnounced))
        assert list(phone.items) == ["a"]
        synced = await anext(change async for change in changes if isinstance(change, Synced))
        assert (announced.spread_s, synced.kind, list(phone.items)) == (1, "full", ["a"])


async def test_other_systems_share_the_channel(backend: AsyncProducer, device: DeviceFactory, uid: str) -> None:
    """Another system sends its own notifications over the same connection; they change no item."""
    async with device("phone") as phone:
        await phone.wait_until_synced()
        changes = phone.changes()

        await backend.send(uid, {"system": "files", "body": {"path": "/a"}})

        received = await anext(change async for change in changes if isinstance(change, ExternalReceived))
        assert (received.system, received.body) == ("files", {"path": "/a"})
        assert phone.state == {}


async def test_badge_is_the_same_everywhere(backend: AsyncProducer, device: DeviceFactory, uid: str) -> None:
    """The badge counts the items of a device's copy; categories may be excluded, as onboarding cards are here."""
    await backend.create(uid, "mail", {"from": "bob"}, item_id="a")
    await backend.create(uid, "onboarding", item_id="card")
    async with device("phone") as phone:
        await wait_until(lambda: len(phone.state) == 2, "both items")

        assert (phone.badge, (await backend.state(uid))["badge"]) == (1, 1)


async def test_history(backend: AsyncProducer, uid: str) -> None:
    """The history keeps items that are gone, with the reason."""
    await backend.create(uid, "mail", {"from": "bob"}, item_id="a")
    await backend.dismiss(uid, "a")

    entries = [entry async for entry in backend.history(uid)]

    assert [(entry["id"], (entry["gone"] or {})["reason"]) for entry in entries] == [("a", "dismissed")]
