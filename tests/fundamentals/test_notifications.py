"""Notifications of a user who is away: push, e-mail, and their withdrawal (docs/explanation/delivery.md)."""

import pytest

from gregor.client import AsyncProducer
from tests.support.wait import wait_until

from .conftest import DeviceFactory, RunningGregor, shows


@pytest.fixture
def phone_with_push(gregor: RunningGregor, uid: str) -> str:
    """Register a phone for APNs; it is not connected. Returns its name."""
    device = {"platform": "ios", "push": {"provider": "apns", "token": uid.encode().hex()}}
    with gregor.api() as api:
        api.put(f"/v1/users/{uid}/devices/phone", json=device).raise_for_status()
    return "phone"


@pytest.mark.usefixtures("phone_with_push")
async def test_push_when_no_device_is_present(gregor: RunningGregor, backend: AsyncProducer, uid: str) -> None:
    """If no device shows the item in time, its devices get a push with the rendered title and the badge."""
    await backend.create(uid, "alert", {"text": "disk full"}, item_id="a")

    await wait_until(lambda: gregor.pushes(uid), "a push")

    push = gregor.pushes(uid)[0]
    assert (push["channel"], push["title"], push["badge"]) == ("apns", "Alert: disk full", 1)


@pytest.mark.usefixtures("phone_with_push")
async def test_no_push_for_dismissed_items(gregor: RunningGregor, backend: AsyncProducer, uid: str) -> None:
    """A dismissal before the push is due cancels the push."""
    await backend.create(uid, "reply", {"from": "bob"}, item_id="a")
    await backend.dismiss(uid, "a")
    await backend.create(uid, "reply", {"from": "carol"}, item_id="b")

    await wait_until(lambda: gregor.pushes(uid), "the push of the second item")

    assert [push["title"] for push in gregor.pushes(uid)] == ["carol replied"]


@pytest.mark.usefixtures("phone_with_push")
async def test_dismissal_withdraws_a_push(
    gregor: RunningGregor, backend: AsyncProducer, device: DeviceFactory, uid: str
) -> None:
    """A push that is already on a screen is removed when the item is dismissed on another device."""
    await backend.create(uid, "alert", {"text": "disk full"}, item_id="a")
    await wait_until(lambda: gregor.pushes(uid), "a push")
    async with device("laptop") as laptop:
        await shows(laptop, "a")

        await laptop.dismiss("a")

    await wait_until(lambda: any(push["withdraw"] for push in gregor.pushes(uid)), "a withdrawal")


async def test_email_when_no_client_is_online(gregor: RunningGregor, backend: AsyncProducer, uid: str) -> None:
    """If no client was online, the user gets an e-mail."""
    with gregor.api() as api:
        api.put(f"/v1/users/{uid}/contact", json={"email": f"{uid}@example.org"}).raise_for_status()

    await backend.create(uid, "invoice", {"number": uid}, item_id="a")

    await wait_until(lambda: f"Invoice {uid}" in gregor.emails(), "an e-mail with the rendered subject")
