"""How a user may be reached, over HTTP."""

from tests.support.api import Api, code_of

CONTACT = "/v1/users/alice/contact"
PREFERENCES = "/v1/users/alice/preferences"
SENT = {"email": "alice@example.com", "timezone": "Europe/Rome", "quiet_hours": {"from": "22:00", "to": "07:00"}}


async def test_a_contact_is_put_patched_shown_and_deleted(api: Api) -> None:
    assert (await api.call("GET", CONTACT)).json() == {}
    assert (await api.call("PUT", CONTACT, json=SENT)).json() == SENT

    patched = await api.call("PATCH", CONTACT, json={"quiet_hours": {"to": "08:00"}, "timezone": None, "locale": "it"})
    now = {"email": "alice@example.com", "locale": "it", "quiet_hours": {"from": "22:00", "to": "08:00"}}
    assert patched.json() == now
    assert (await api.call("GET", CONTACT)).json() == now

    for _ in range(2):
        assert (await api.call("DELETE", CONTACT)).status_code == 204
    assert (await api.call("GET", CONTACT)).json() == {}


async def test_preferences_are_put_patched_and_shown_by_a_device_too(api: Api) -> None:
    token = api.token()
    assert (await api.call("GET", PREFERENCES, token)).json() == {}
    said = {"user": {"push": True}, "*": {"push": False, "email": False}}
    assert (await api.call("PUT", PREFERENCES, token, json=said)).json() == said

    patched = await api.call("PATCH", PREFERENCES, token, json={"user": None, "*": {"email": None}})
    assert patched.json() == {"*": {"push": False}}
    assert (await api.call("GET", PREFERENCES, token)).json() == {"*": {"push": False}}


async def test_what_is_no_contact_is_refused_and_nothing_changes(api: Api) -> None:
    await api.call("PUT", CONTACT, json=SENT)

    assert code_of(await api.call("PATCH", CONTACT, json={"timezone": "Mars/Olympus"})) == (422, "invalid")
    assert code_of(await api.call("PATCH", CONTACT, json=[])) == (422, "invalid")
    assert code_of(await api.call("PUT", PREFERENCES, json={"user": {"sms": True}})) == (422, "unknown_field")
    assert (await api.call("GET", CONTACT)).json() == SENT


async def test_the_address_of_a_user_is_nothing_for_devices(api: Api) -> None:
    assert code_of(await api.call("GET", CONTACT, api.token())) == (403, "forbidden")
