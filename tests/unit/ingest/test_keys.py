"""Service keys, tickets, and the administration of users."""

import asyncio
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from gregor.auth.device_tokens import TokenVerifier
from gregor.reference.store import MemoryStore
from gregor.store import service_keys
from gregor.store.contract.access import ServiceKey
from gregor.store.contract.store import Unavailable
from gregor_ingest.auth.key_cache import KEY_REFRESH_S
from tests.support.api import NOW_S, Api, code_of
from tests.support.builders import LIMITS
from tests.support.wait import wait_until


async def make(api: Api, **document: Any) -> dict[str, Any]:
    answer = await api.call("POST", "/v1/keys", json=document)
    assert answer.status_code == 201
    made: dict[str, Any] = answer.json()
    return made


async def test_key_is_created_listed_and_deleted(api: Api) -> None:
    made = await make(api, scopes=["read", "ingest", "read"], prefixes=["user.", "user.x"], rate=5)

    assert made["key"].startswith(f"gk_{made['id']}_")
    shown = {name: value for name, value in made.items() if name != "key"}
    assert shown == {
        "id": made["id"], "scopes": ["ingest", "read"], "prefixes": ["user"], "rate": 5, "created": NOW_S,
        "systems": None, "expires": None, "addresses": None, "last_used": None,
    }  # fmt: skip
    listed = await api.call("GET", "/v1/keys")
    assert shown in listed.json()["keys"]
    assert (await api.call("GET", f"/v1/keys/{made['id']}")).json() == shown
    assert made["key"] not in listed.text
    assert (await api.call("GET", "/v1/users/alice/state", made["key"])).status_code == 200

    for _ in range(2):
        assert (await api.call("DELETE", f"/v1/keys/{made['id']}")).status_code == 204
    assert code_of(await api.call("GET", "/v1/users/alice/state", made["key"])) == (401, "unauthorised")
    assert code_of(await api.call("GET", f"/v1/keys/{made['id']}")) == (404, "not_found")


async def test_rotated_key_has_two_secrets_for_a_day(api: Api) -> None:
    made = await make(api, scopes=["read"])
    fresh = (await api.call("POST", f"/v1/keys/{made['id']}/rotate")).json()["key"]

    async def works(token: str) -> bool:
        return (await api.call("GET", "/v1/users/alice/state", token)).status_code == 200

    assert fresh != made["key"]
    assert await works(made["key"]) and await works(fresh)
    api.clock.advance(24 * 3_600)
    assert await works(fresh) and not await works(made["key"])


@pytest.mark.parametrize("cut", [slice(None), slice(3, None), slice(0, 15), slice(16, None), slice(3, 14)])
@pytest.mark.parametrize(("method", "path"), [("GET", ""), ("DELETE", ""), ("POST", "/rotate")])
async def test_text_of_a_key_in_a_path_is_refused_and_not_stored(api: Api, method: str, path: str, cut: slice) -> None:
    """Deleting it, or a part of it other than the id, would report success and delete nothing."""
    leaked = await api.make_key("read")

    answer = await api.call(method, f"/v1/keys/{leaked[cut]}{path}")

    assert code_of(answer) == (422, "invalid_id")
    # A secret that begins with "_" or "-" is not even a name.
    assert "between the two underscores" in answer.json()["detail"] or leaked[cut][0] in "_-"
    assert leaked[3:15] in (await api.call("GET", "/v1/keys")).text
    assert leaked[16:] not in answer.text + (await api.call("GET", "/v1/audit")).text


async def test_expired_key_cannot_be_rotated(api: Api) -> None:
    """Its new secret would be refused, too."""
    made = await make(api, scopes=["read"], expires=NOW_S + 60)
    api.clock.advance(60)

    answer = await api.call("POST", f"/v1/keys/{made['id']}/rotate")

    assert code_of(answer) == (422, "invalid")
    expired_at = f"{datetime.fromtimestamp(NOW_S + 60, UTC):%Y-%m-%d %H:%M:%S} UTC"
    assert answer.json()["detail"] == f"The key expired at {expired_at}; create a new key."


async def test_unknown_key_cannot_be_rotated(api: Api) -> None:
    assert code_of(await api.call("POST", "/v1/keys/nosuchkey123/rotate")) == (404, "not_found")


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        ({}, (422, "missing_field")),
        ({"scopes": []}, (422, "invalid")),
        ({"scopes": ["everything"]}, (422, "invalid")),
        ({"scopes": "read"}, (422, "invalid")),
        ({"scopes": ["read"], "rate": 0}, (422, "invalid")),
        ({"scopes": ["read"], "rate": "5"}, (422, "invalid")),
        ({"scopes": ["read"], "rate": True}, (422, "invalid")),
        ({"scopes": ["read"], "rate": 1e-9}, (422, "invalid")),
        ({"scopes": ["read"], "rate": 1_000_001}, (422, "invalid")),
        ({"scopes": ["read"], "prefixes": ["a b"]}, (422, "invalid_id")),
        ({"scopes": ["read"], "limit": 5}, (422, "unknown_field")),
    ],
)
async def test_invalid_key_request_is_refused(api: Api, document: Any, expected: tuple[int, str]) -> None:
    assert code_of(await api.call("POST", "/v1/keys", json=document)) == expected


async def test_device_gets_a_ticket_for_its_view(api: Api) -> None:
    token = api.token(category_filter=["user", "chat"])

    answer = await api.call("POST", "/v1/tickets", token, json={"category_prefix": "user.joined", "systems": ["kbfs"]})

    assert answer.status_code == 201
    assert answer.json()["expires"] == NOW_S + 30
    ticket = await api.store.access.redeem_ticket(answer.json()["ticket"], api.clock.now_us())
    assert ticket is not None
    assert (ticket.uid, ticket.device, ticket.observe) == ("alice", "phone", False)
    assert (ticket.prefixes, ticket.systems) == (("user.joined",), ("kbfs",))
    assert ticket.claims["exp"] == NOW_S + 3_600


async def test_ticket_is_limited_like_its_token(api: Api) -> None:
    token = api.token(category_filter=["user"], systems=["kbfs"])

    async def ticket_of(**document: Any) -> tuple[Any, Any]:
        text = (await api.call("POST", "/v1/tickets", token, json=document)).json()["ticket"]
        ticket = await api.store.access.redeem_ticket(text, api.clock.now_us())
        assert ticket is not None
        return ticket.prefixes, ticket.systems

    assert await ticket_of() == (("user",), ("kbfs",))
    assert await ticket_of(category_prefix=["chat", "user.x"], systems=["kbfs.y", "z"]) == (("user.x",), ("kbfs.y",))
    assert await ticket_of(category_prefix="chat", systems=["z"]) == ((), ())


async def test_ticket_names_the_key_and_the_required_claims_of_its_token(api: Api) -> None:
    """A gateway refuses it after the key was removed, or a setting has changed."""
    token = api.token()
    caller = await TokenVerifier(api.settings).verify(token, api.clock.now_us())
    text = (await api.call("POST", "/v1/tickets", token, json={})).json()["ticket"]
    ticket = await api.store.access.redeem_ticket(text, api.clock.now_us())

    assert ticket is not None
    assert (ticket.claims["token_key"], ticket.claims["token_claims"]) == (caller.key_mark, caller.claims_mark)


async def test_ticket_request_needs_no_body(api: Api) -> None:
    assert (await api.call("POST", "/v1/tickets", api.token())).status_code == 201


async def test_key_gets_an_observer_ticket(api: Api) -> None:
    answer = await api.call("POST", "/v1/tickets", json={"uid": "alice", "device": "phone", "observe": True})

    ticket = await api.store.access.redeem_ticket(answer.json()["ticket"], api.clock.now_us())
    assert ticket is not None
    assert (ticket.uid, ticket.device, ticket.observe, ticket.prefixes) == ("alice", "phone", True, None)


async def test_forbidden_tickets(api: Api) -> None:
    async def ask(token: str, **document: Any) -> tuple[int, str]:
        return code_of(await api.call("POST", "/v1/tickets", token, json=document))

    assert await ask(api.key, uid="alice") == (403, "forbidden")
    assert await ask(api.key, observe=True) == (422, "missing_field")
    assert await ask(api.token(), observe=True) == (403, "forbidden")
    assert await ask(api.token(), uid="bob") == (403, "forbidden")
    assert await ask(api.token(), device="laptop") == (403, "forbidden")
    assert await ask(api.token(), category_prefix="a b") == (422, "invalid_id")


async def test_flush_invalidates_cursors_and_keeps_state(api: Api) -> None:
    await api.create("alice", "aa")
    before = (await api.call("GET", "/v1/users/alice/sync", api.token())).json()

    flushed = (await api.call("POST", "/v1/users/alice/flush")).json()

    assert set(flushed) == {"cursor"}
    after = (await api.call("GET", "/v1/users/alice/sync", api.token(), params={"cursor": before["cursor"]})).json()
    assert (after["sync"], after["digest"], after["seq"]) == ("full", before["digest"], 2)


async def test_flush_with_an_id_is_idempotent(api: Api) -> None:
    first = await api.call("POST", "/v1/users/alice/flush", headers={"Idempotency-Key": "f1"})
    again = await api.call("POST", "/v1/users/alice/flush", headers={"Idempotency-Key": "f1"})

    assert first.json() == again.json()


async def test_flush_of_all_users(api: Api) -> None:
    await api.create("alice", "aa")
    before = (await api.call("GET", "/v1/users/alice/sync")).json()["cursor"]

    answer = await api.call("POST", "/v1/flush", json={"spread": 5})

    assert (answer.status_code, answer.json()) == (202, {"spread": 5})
    assert (await api.call("GET", "/v1/users/alice/sync", params={"cursor": before})).json()["sync"] == "full"
    assert (await api.call("POST", "/v1/flush")).json() == {"spread": 30}
    for spread in (-1, 3_601, "5", 1.5):
        assert code_of(await api.call("POST", "/v1/flush", json={"spread": spread})) == (422, "invalid")
    assert code_of(await api.call("POST", "/v1/flush", json={"sprad": 5})) == (422, "unknown_field")


async def test_deleted_user_is_gone_and_tokens_are_revoked(api: Api) -> None:
    await api.create("alice", "aa")
    await api.call("PUT", "/v1/users/alice/devices/phone", json={"platform": "ios"})
    token = api.token()

    for _ in range(2):
        assert (await api.call("DELETE", "/v1/users/alice")).status_code == 204

    assert (await api.call("GET", "/v1/users/alice/state")).json()["items"] == {}
    assert (await api.call("GET", "/v1/users/alice/history")).json() == {"entries": []}
    assert (await api.call("GET", "/v1/users/alice/devices")).json() == {"devices": {}}
    assert code_of(await api.call("GET", "/v1/users/alice/state", token)) == (401, "unauthorised")
    assert (await api.create("alice", "aa")).json()["created"] == ["aa"]


async def test_observer_ticket_has_the_rate_of_its_key(api: Api) -> None:
    """A gateway limits the streams and polls of the key by it."""
    made = await make(api, scopes=["read"], rate=3)

    answer = await api.call("POST", "/v1/tickets", made["key"], json={"uid": "alice", "observe": True})

    ticket = await api.store.access.redeem_ticket(answer.json()["ticket"], api.clock.now_us())
    assert ticket is not None and ticket.claims["rate"] == 3


async def test_observer_ticket_has_the_mark_of_the_secret(api: Api) -> None:
    """The stream of the ticket ends when that secret expires, not when the key is rotated."""
    made = await make(api, scopes=["read"])
    fresh = (await api.call("POST", f"/v1/keys/{made['id']}/rotate")).json()["key"]
    held = []
    for text in (made["key"], fresh):
        answer = await api.call("POST", "/v1/tickets", text, json={"uid": "alice", "observe": True})
        ticket = await api.store.access.redeem_ticket(answer.json()["ticket"], api.clock.now_us())
        assert ticket is not None
        held.append(ticket.claims["secret"])
    api.clock.advance(24 * 3_600)

    key = await api.store.access.key(made["id"])

    assert [service_keys.is_mark_valid(key, mark, api.clock.now_us()) for mark in held] == [False, True]


async def test_new_key_has_a_location(api: Api) -> None:
    made = await api.call("POST", "/v1/keys", json={"scopes": ["read"]})

    assert made.headers["location"] == f"/v1/keys/{made.json()['id']}"
    assert (await api.call("GET", made.headers["location"])).json()["scopes"] == ["read"]


class KeylessStore(MemoryStore):
    """A store whose service keys can be unreachable."""

    is_away = False
    reads = 0

    @property
    def access(self) -> Any:
        self.reads += 1
        if self.is_away:
            raise Unavailable("the shard of the service keys is unreachable")
        return super().access


async def test_known_key_works_while_keys_are_unreachable() -> None:
    store = KeylessStore(LIMITS)
    async with Api(store, service_key_grace_s=900) as api:
        assert (await api.create("alice", "aa")).status_code == 200
        store.is_away, unknown = True, f"gk_{'a' * 12}_{'b' * 43}"

        api.clock.advance(899)
        assert (await api.create("alice", "bb")).status_code == 200
        assert code_of(await api.call("GET", "/v1/users/alice/state", unknown)) == (503, "unavailable")
        api.clock.advance(2)
        assert code_of(await api.create("alice", "cc")) == (503, "unavailable")
        store.is_away = False
        assert (await api.create("alice", "cc")).status_code == 200


async def test_restarted_process_cannot_check_a_valid_key() -> None:
    store = KeylessStore(LIMITS)
    async with Api(store) as api:
        await api.create("alice", "aa")
        api.app.state.context.authorizer.invalidate_keys()  # as after a restart: this process knows no key
        store.is_away = True

        answer = await api.create("alice", "bb")

        assert (code_of(answer), answer.headers["retry-after"]) == ((503, "unavailable"), "1")
        assert "service key cannot be checked" in answer.json()["detail"]


async def test_expired_key_is_refused_while_keys_are_unreachable() -> None:
    store = KeylessStore(LIMITS)
    async with Api(store) as api:
        key = await api.make_key("read", expires_us=api.clock.now_us() + 10_000_000)
        assert (await api.call("GET", "/v1/users/alice/state", key)).status_code == 200
        store.is_away = True
        api.clock.advance(11)

        assert code_of(await api.call("GET", "/v1/users/alice/state", key)) == (401, "unauthorised")


async def test_unreachable_keys_are_not_read_for_every_call() -> None:
    store = KeylessStore(LIMITS)
    async with Api(store) as api:
        await api.create("alice", "aa")
        store.is_away = True
        api.clock.advance(1)
        await api.create("alice", "bb")
        before = store.reads

        for n in range(10):
            assert (await api.create("alice", f"c{n}")).status_code == 200
        assert store.reads == before


class HangingAccess:
    """The access part of a store whose reads of keys end only when they may, with ``answer``."""

    def __init__(self, answer: ServiceKey | None = None) -> None:
        self.answer = answer
        self.reads = self.ended = 0
        self.may_end = asyncio.Event()

    async def key(self, key_id: str) -> ServiceKey | None:
        self.reads += 1
        await self.may_end.wait()
        self.ended += 1
        return self.answer


class HangingStore(KeylessStore):
    """A store whose shard of the service keys can hang."""

    hanging: HangingAccess | None = None

    @property
    def access(self) -> Any:
        return self.hanging or super().access


async def test_calls_do_not_wait_for_a_hanging_shard() -> None:
    store = HangingStore(LIMITS)
    async with Api(store) as api:
        await api.create("alice", "aa")
        store.hanging = HangingAccess()
        api.clock.advance(1)
        await api.create("alice", "bb")

        for n in range(10):
            assert (await api.create("alice", f"c{n}")).status_code == 200
            api.clock.advance(1)
        assert store.hanging.reads == 1, "no call begins another read, or waits for it again"

        store.hanging.may_end.set()
        await wait_until(lambda: _is_refused(api), "the end of the read refuses the key")


async def _end_a_slow_read(api: Api, store: HangingStore, key: str, **changes: Any) -> None:
    """Accept a call that does not wait for its read, and end this read. Without ``changes``, the key is deleted."""
    held = await store.access.key(key[3:15])
    assert held is not None
    slow = HangingAccess(replace(held, **changes) if changes else None)
    store.hanging = slow
    assert (await api.call("GET", "/v1/users/alice/state", key)).status_code == 200
    slow.may_end.set()
    await wait_until(lambda: slow.ended == 1, "the end of the read")
    store.hanging, store.is_away = None, True


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, (503, "unavailable")),
        ({"hashes": ((service_keys.hash_of("another secret"), None),)}, (503, "unavailable")),
        ({"expires_us": NOW_S * 1_000_000}, (503, "unavailable")),
        ({"scopes": frozenset({"ingest"})}, (403, "forbidden")),
    ],
    ids=["deleted", "another secret", "expired", "other scopes"],
)
async def test_result_of_a_slow_read_counts_for_later_calls(changes: dict[str, Any], expected: tuple[int, str]) -> None:
    """Else each call of a deleted key would begin another slow read, and be accepted meanwhile."""
    store = HangingStore(LIMITS)
    async with Api(store) as api:
        key = await api.make_key("read")
        assert (await api.call("GET", "/v1/users/alice/state", key)).status_code == 200
        api.clock.advance(1)
        await _end_a_slow_read(api, store, key, **changes)
        api.clock.advance(1)

        assert code_of(await api.call("GET", "/v1/users/alice/state", key)) == expected


async def test_slow_read_confirms_a_key_from_its_beginning() -> None:
    store = HangingStore(LIMITS)
    async with Api(store, service_key_grace_s=30) as api:
        key = await api.make_key("read")
        assert (await api.call("GET", "/v1/users/alice/state", key)).status_code == 200
        api.clock.advance(20)
        await _end_a_slow_read(api, store, key, name="confirmed")

        api.clock.advance(29)
        assert (await api.call("GET", "/v1/users/alice/state", key)).status_code == 200
        api.clock.advance(2)
        assert code_of(await api.call("GET", "/v1/users/alice/state", key)) == (503, "unavailable")


async def test_busy_key_is_read_again_without_a_wait() -> None:
    store = HangingStore(LIMITS)
    async with Api(store) as api:
        await api.create("alice", "aa")
        store.hanging = HangingAccess()
        api.clock.advance(1.5 * KEY_REFRESH_S)

        for n in range(3):
            assert (await api.create("alice", f"b{n}")).status_code == 200
        hanging = store.hanging
        await wait_until(lambda: hanging.reads == 1, "the read")


async def _is_refused(api: Api) -> bool:
    return (await api.create("alice", "dd")).status_code == 401


async def test_deleted_key_is_not_accepted_again() -> None:
    store = KeylessStore(LIMITS)
    async with Api(store) as api:
        key = await api.make_key("read")
        assert (await api.call("GET", "/v1/users/alice/state", key)).status_code == 200
        await store.access.delete_key(key[3:15])
        api.clock.advance(1)
        assert code_of(await api.call("GET", "/v1/users/alice/state", key)) == (401, "unauthorised")
        store.is_away = True
        api.clock.advance(1)

        assert code_of(await api.call("GET", "/v1/users/alice/state", key)) == (503, "unavailable")


async def test_rate_of_a_key_holds_in_the_process_if_unreachable() -> None:
    store = KeylessStore(LIMITS)
    async with Api(store) as api:
        key = await api.make_key("ingest", rate=2)
        assert (await api.send("alice", {"dismiss": {"ids": ["aa"]}}, key)).status_code == 200
        store.is_away = True

        found = [(await api.send("alice", {"dismiss": {"ids": ["aa"]}}, key)).status_code for _ in range(4)]
        assert found == [200, 200, 429, 429]
        api.clock.advance(1)
        assert (await api.send("alice", {"dismiss": {"ids": ["aa"]}}, key)).status_code == 200


async def test_step_of_the_clock_does_not_change_the_rate_of_a_process() -> None:
    store = KeylessStore(LIMITS)
    async with Api(store) as api:
        key = await api.make_key("ingest", rate=2)
        assert (await api.send("alice", {"dismiss": {"ids": ["aa"]}}, key)).status_code == 200
        store.is_away = True
        found = []
        for step_s in (0, -20, 40, -20):
            api.clock.step(step_s)
            found.append((await api.send("alice", {"dismiss": {"ids": ["aa"]}}, key)).status_code)

        assert found == [200, 200, 429, 429]
