"""Every store keeps users apart, whatever characters their uids have (semantics.md, "Names")."""

from __future__ import annotations

from hypothesis import HealthCheck, example, given, settings

from gregor.core.notify.contact import Contact
from gregor.core.notify.intents import Intent, IntentKind
from gregor.core.notify.ledger import DeliveryState
from gregor.store.contract.devices import DeviceSession, Registration
from gregor.store.contract.store import Store
from tests.support.builders import BACKEND, NOW_US, SECOND_US, creating, dismissing, ids_of
from tests.support.names import USER_IDS

HOUR_US = 3_600 * SECOND_US


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(USER_IDS, USER_IDS)
@example("auth0|123", "auth0|12")
@example("a+b@c.d", "a+b@c")
@example("a|b+c", "a|b")
async def test_users_do_not_mix(store: Store, uid: str, other: str) -> None:
    if uid == other:
        return
    for each in (uid, other):
        await store.users.delete_user(each, NOW_US)
    await store.users.commit(uid, creating("a", "b", now_us=NOW_US, remind_at=["+60"]))
    await store.devices.put_device(uid, "phone", Registration("ios"), NOW_US)
    await store.devices.open_session(uid, "phone", DeviceSession("s", "c", "g", NOW_US), NOW_US, HOUR_US)
    await store.contacts.put_contact(uid, Contact(email="a@example.com"))
    intent = Intent(uid, "a", IntentKind.ITEM, "apns", "phone", at_us=NOW_US)

    assert (await store.ledger.plan([intent], DeliveryState.PLANNED, None, NOW_US)).new == [intent]
    assert [each.intent.uid for each in await store.ledger.of_item(uid, "a")] == [uid]
    await store.users.commit(uid, dismissing("b", now_us=NOW_US + 1))
    assert ids_of(await store.users.state(uid, BACKEND, NOW_US + 2)) == ["a"]
    assert [entry.id for entry in await store.users.history(uid, BACKEND, None, 10, NOW_US + 2)] == ["b", "a"]
    assert [each.online for each in await store.devices.presence([uid, other], NOW_US + 2)] == [True, False]

    assert ids_of(await store.users.state(other, BACKEND, NOW_US + 2)) == []
    assert await store.devices.list_devices(other, NOW_US + 2) == {}
    assert await store.ledger.of_item(other, "a") == []
    assert store.channel_of(uid) != store.channel_of(other)

    await store.users.delete_user(other, NOW_US + 3)
    assert ids_of(await store.users.state(uid, BACKEND, NOW_US + 4)) == ["a"]
    await store.users.delete_user(uid, NOW_US + 5)
    assert ids_of(await store.users.state(uid, BACKEND, NOW_US + 6)) == []
