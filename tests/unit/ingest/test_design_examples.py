"""The worked examples of the design, over the HTTP API, with their exact JSON."""

from gregor_ingest.schemas.examples import DIGEST, FRIEND, ITEM_ID
from tests.support.api import Api

BLOB = {ITEM_ID: FRIEND}
DISMISSAL = {"dismiss": {"ids": [ITEM_ID]}}


async def test_item_is_created_and_dismissed_on_one_device(api: Api) -> None:
    phone = api.token()

    made = (await api.send("alice", {"create": BLOB, "dismiss": {}})).json()
    assert {**made, "cursor": ""} == {"cursor": "", "seq": 1, "created": [ITEM_ID], "dismissed": [], "ignored": {}}

    state = (await api.call("GET", "/v1/users/alice/state", phone)).json()
    assert state["items"] == BLOB
    assert (state["digest"], state["badge"]) == (DIGEST, 1)

    copy = (await api.call("GET", "/v1/users/alice/sync", phone)).json()
    assert copy == {
        "system": "gregor",
        "sync": "full",
        "seq": 1,
        "cursor": state["cursor"],
        "digest": DIGEST,
        "body": {"create": BLOB},
    }

    gone = (await api.send("alice", DISMISSAL, phone)).json()
    assert {**gone, "cursor": ""} == {"cursor": "", "seq": 2, "created": [], "dismissed": [ITEM_ID], "ignored": {}}
    assert (await api.call("GET", "/v1/users/alice/state", phone)).json()["items"] == {}

    delta = (await api.call("GET", "/v1/users/alice/sync", phone, params={"cursor": copy["cursor"]})).json()
    tag = copy["cursor"].partition("-")[0]
    assert {**delta, "sync": ""} == {
        "system": "gregor",
        "sync": "",
        "seq": 2,
        "cursor": f"{tag}-2",
        "digest": "0" * 64,
        **({"body": DISMISSAL} if delta["sync"] == "delta" else {}),
    }


async def test_repeated_creation_is_ignored_as_duplicate(api: Api) -> None:
    first = (await api.send("alice", {"create": BLOB})).json()

    again = (await api.send("alice", {"create": BLOB})).json()

    assert again == {
        "cursor": first["cursor"],
        "seq": 1,
        "created": [],
        "dismissed": [],
        "ignored": {ITEM_ID: "duplicate"},
        "unchanged": True,
    }


async def test_interval_dismisses_items_of_a_category(api: Api) -> None:
    followers = {f"f{n}": {"times": {"created": 1457056400 + n}, "category": "user.followed"} for n in range(3)}
    await api.send("alice", {"create": {**followers, **BLOB}})

    interval = {"begin": 1457056400, "end": 1457056402, "category": "user.followed", "skip": ["f1"]}
    gone = (await api.send("alice", {"dismiss": {"intervals": [interval]}})).json()

    assert gone["dismissed"] == ["f0", "f2"]
    assert set((await api.call("GET", "/v1/users/alice/state")).json()["items"]) == {"f1", ITEM_ID}


async def test_sync_has_missed_external_messages(api: Api) -> None:
    await api.send("alice", {"create": BLOB})
    phone = api.token()
    at = (await api.call("GET", "/v1/users/alice/sync", phone)).json()["cursor"]
    body = {"action": "delete", "tlf": "/private/alice,max"}

    told = await api.call("POST", "/v1/users/alice/messages", json={"system": "kbfs.favorites", "body": body})
    assert set(told.json()) == {"cursor", "seq"}

    back = (await api.call("GET", "/v1/users/alice/sync", phone, params={"cursor": at})).json()
    assert back == {
        "system": "gregor",
        "sync": "unchanged",
        "seq": 2,
        "cursor": at.partition("-")[0] + "-2",
        "external": [{"system": "kbfs.favorites", "seq": 2, "body": body}],
    }


async def test_reading_an_unknown_user_creates_nothing(api: Api) -> None:
    for _ in range(2):
        state = (await api.call("GET", "/v1/users/nobody/state")).json()
        assert {**state, "cursor": ""} == {"cursor": "", "digest": "0" * 64, "badge": 0, "items": {}}
        assert state["cursor"].endswith("-0")
    assert await api.store.users.heads(["nobody"]) == [None]
