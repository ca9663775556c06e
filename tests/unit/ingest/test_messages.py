"""Single messages: validation, size limits, idempotency and errors."""

from typing import Any

import pytest
from structlog.testing import capture_logs

from gregor.core.errors import Problem
from gregor.reference.store import MemoryStore
from gregor.store.contract.store import Unavailable
from gregor.telemetry import REFUSAL_LINES_BURST
from tests.support.api import Api, code_of

PATH = "/v1/users/alice/messages"
JSON = {"Content-Type": "application/json"}
GOOD = b'{"system":"gregor","body":{"dismiss":{"ids":["aa"]}}}'


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (b"", (400, "malformed_json")),
        (b"{", (400, "malformed_json")),
        (b'{"system":"gregor","system":"gregor","body":{}}', (400, "malformed_json")),
        (b'{"system":"a","body":"\\ud800"}', (400, "malformed_json")),
        (b'{"system":"a","body":' + b"[" * 64 + b"]" * 64 + b"}", (400, "malformed_json")),
        (b"[]", (422, "invalid")),
        (b'{"body":{}}', (422, "missing_field")),
        (b'{"system":"gregor","body":{}}', (422, "invalid")),
        (b'{"system":"gregor","body":{"dismiss":{"ids":["a"]}},"not_after":1}', (422, "unknown_field")),
        (b'{"system":"gregor","body":{"create":{"a":{}}}}', (422, "missing_field")),
        (b'{"system":"gregor","body":{"create":{"a b":{"category":"c"}}}}', (422, "invalid_id")),
        (b'{"system":"a","body":1e999}', (422, "number_out_of_range")),
        (b'{"system":"a","body":9007199254740992}', (422, "number_out_of_range")),
    ],
)
async def test_invalid_message_is_refused(api: Api, raw: bytes, expected: tuple[int, str]) -> None:
    assert code_of(await api.call("POST", PATH, content=raw, headers=JSON)) == expected


async def test_error_has_pointer_and_fix(api: Api) -> None:
    answer = await api.create("alice", "x", times={"expires": "tomorrow"})

    document = answer.json()
    assert document["errors"][0]["pointer"] == "/body/create/x/times/expires"
    assert "+86400" in document["errors"][0]["detail"]


@pytest.mark.parametrize(
    "kind", ["text/plain", "application/x-www-form-urlencoded", "application/json; charset=latin1"]
)
async def test_other_media_types_are_415(api: Api, kind: str) -> None:
    answer = await api.call("POST", PATH, content=GOOD, headers={"Content-Type": kind})

    assert code_of(answer) == (415, "unsupported_media_type")


@pytest.mark.parametrize("kind", [None, "", "application/json", "Application/JSON; charset=UTF-8"])
async def test_content_type_may_be_missing(api: Api, kind: str | None) -> None:
    headers = {} if kind is None else {"Content-Type": kind}

    assert (await api.call("POST", PATH, content=GOOD, headers=headers)).status_code == 200


async def test_content_encoding_is_415(api: Api) -> None:
    for encoding in ("gzip", "br", "identity"):
        answer = await api.call("POST", PATH, content=GOOD, headers={**JSON, "Content-Encoding": encoding})
        assert code_of(answer) == (415, "unsupported_media_type")


class CountingReceive:
    """A request body in pieces, which counts how many of them were read."""

    def __init__(self, pieces: int) -> None:
        self.left = pieces

    def __aiter__(self) -> "CountingReceive":
        return self

    async def __anext__(self) -> bytes:
        if not self.left:
            raise StopAsyncIteration
        self.left -= 1
        return b" " * 65_536


async def test_body_over_the_limit_is_413(api: Api) -> None:
    body = CountingReceive(100)

    answer = await api.call("POST", PATH, content=body, headers=JSON)

    assert code_of(answer) == (413, "message_too_large")
    assert body.left > 90


async def test_content_length_over_the_limit_reads_nothing(api: Api) -> None:
    body = CountingReceive(100)

    answer = await api.call("POST", PATH, content=body, headers={**JSON, "Content-Length": "6553600"})

    assert code_of(answer) == (413, "message_too_large")
    assert body.left == 100


async def test_body_of_exactly_the_limit_is_accepted(api: Api) -> None:
    raw = GOOD.ljust(256 * 1024)

    assert (await api.call("POST", PATH, content=raw, headers=JSON)).status_code == 200
    assert code_of(await api.call("POST", PATH, content=raw + b" ", headers=JSON)) == (413, "message_too_large")


async def test_unknown_query_parameter_is_refused(api: Api) -> None:
    assert code_of(await api.call("POST", PATH, content=GOOD, params={"dry": "true"})) == (422, "unknown_field")


async def test_idempotency_key_is_the_message_id(api: Api) -> None:
    message = {"system": "kbfs", "body": 1}

    async def post(key: str, **members: Any) -> Any:
        return await api.call("POST", PATH, json={**message, **members}, headers={"Idempotency-Key": key})

    first = (await post("m1")).json()
    assert (await post("m1")).json() == {**first, "unchanged": True}
    assert (await post("m1", id="m1")).json() == {**first, "unchanged": True}
    assert (await post('"m1"')).json() == {**first, "unchanged": True}
    assert code_of(await post("m1", id="m2")) == (422, "invalid")
    assert code_of(await post("m1", body=2)) == (409, "id_reused")
    for key in ("a b", "", '""', '"m1', "m1, m1"):
        assert code_of(await post(key)) == (422, "invalid_id")
    assert (await post("m2")).json()["seq"] == first["seq"] + 1


async def test_repeat_from_a_sender_with_other_limits_is_refused_if_it_would_do_more(api: Api) -> None:
    narrow, other_narrow = [await api.make_key("ingest", prefixes=["x"]) for _ in range(2)]
    for category in ("x", "y"):
        await api.create("alice", f"i-{category}", category)
    dismissal = {"dismiss": {"ids": ["i-x", "i-y"], "intervals": [{"category": "x", "begin": 0}]}}
    sweep = {"dismiss": {"intervals": [{"category": "x"}]}}

    first = await api.send("alice", dismissal, narrow, id="m1")
    assert first.json()["dismissed"] == ["i-x"]
    assert (await api.send("alice", dismissal, other_narrow, id="m1")).json()["unchanged"]
    assert code_of(await api.send("alice", dismissal, id="m1")) == (409, "id_reused")

    assert (await api.send("alice", sweep, narrow, id="m2")).status_code == 200
    assert (await api.send("alice", sweep, id="m2")).json()["unchanged"], "the limits do not change what it does"


async def test_key_may_name_the_sending_device(api: Api) -> None:
    await api.create("alice", "aa", for_device="*")

    gone = await api.send("alice", {"dismiss": {"ids": ["aa"]}}, device="phone")

    assert gone.json()["dismissed"] == ["aa"]
    assert list((await api.call("GET", "/v1/users/alice/state?device=laptop")).json()["items"]) == ["aa"]
    assert (await api.call("GET", "/v1/users/alice/state?device=phone")).json()["items"] == {}


async def test_full_state_is_409() -> None:
    async with Api(max_live=1) as api:
        await api.create("alice", "aa")

        assert code_of(await api.create("alice", "bb")) == (409, "state_full")


class BrokenStore(MemoryStore):
    """A store whose users cannot be read or written while ``failure`` is set."""

    failure: Exception | None = None

    @property
    def users(self) -> Any:
        if self.failure is not None:
            raise self.failure
        return super().users


async def test_store_outage_is_503_with_retry_after() -> None:
    store = BrokenStore(Api().settings.limits)
    async with Api(store) as api:
        store.failure = Unavailable("gone")
        answer = await api.call("POST", PATH, content=GOOD)

        assert code_of(answer) == (503, "unavailable")
        assert answer.headers["retry-after"] == "1"


async def test_server_error_is_500_without_internals() -> None:
    store = BrokenStore(Api().settings.limits)
    async with Api(store) as api:
        store.failure = RuntimeError("a secret of the inside")
        answer = await api.call("POST", PATH, content=GOOD)

        assert code_of(answer) == (500, "internal")
        assert "inside" not in answer.text


async def test_tracebacks_do_not_flood_the_log() -> None:
    """One device could cause the same internal error 40 times a second: 21 GB of log a day."""
    store = BrokenStore(Api().settings.limits)
    async with Api(store) as api:
        store.failure = RuntimeError("a secret of the inside")
        with capture_logs() as logs:
            for _ in range(REFUSAL_LINES_BURST + 100):
                await api.call("POST", PATH, content=GOOD)

    assert REFUSAL_LINES_BURST <= sum(each["event"] == "request.failed" for each in logs) <= REFUSAL_LINES_BURST + 20


async def test_messages_are_counted_by_outcome(api: Api) -> None:
    await api.create("alice", "aa")
    await api.create("alice", "aa")

    text = (await api.call("GET", "/metrics", "")).text

    assert 'gregor_messages_total{outcome="effect"} 1.0' in text
    assert 'gregor_messages_total{outcome="unchanged"} 1.0' in text
    assert 'gregor_http_requests_total{method="POST",route="sendMessage",status="200"} 2.0' in text
    assert "alice" not in text


def test_problem_code_decides_the_status() -> None:
    assert Problem("state_full", "").status == 409


@pytest.mark.parametrize("path", ["auth0%7C123", "auth0|123", "alice+test@example.com", "alice%2Btest%40example.com"])
async def test_uid_of_an_identity_provider_is_accepted(api: Api, path: str) -> None:
    answer = await api.call("POST", f"/v1/users/{path}/messages", content=GOOD, headers=JSON)

    assert answer.status_code == 200
    assert (await api.call("GET", f"/v1/users/{path}/state")).status_code == 200


@pytest.mark.parametrize(("path", "character"), [("a%20b", "' '"), ("a*b", "'*'"), ("%C3%BC", "'ü'")])
async def test_uid_error_names_the_character(api: Api, path: str, character: str) -> None:
    answer = await api.call("POST", f"/v1/users/{path}/messages", content=GOOD, headers=JSON)

    assert code_of(answer) == (422, "invalid_id")
    assert f"The character {character}" in answer.json()["detail"]
