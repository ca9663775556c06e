"""Batches: one result for each pair of line and uid, in order; an invalid line does not affect the others."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Iterable
from typing import Any

import httpx
import pytest

from gregor.reference.store import MemoryStore
from gregor.store.contract.store import Unavailable
from gregor_ingest.routes.messages.batch import CHUNK_ENTRIES
from gregor_ingest.routes.messages.lines import MAX_UIDS
from tests.support.api import NDJSON, Api, code_of
from tests.support.kept_errors import garbage_collection_off, kept_errors
from tests.support.wait import wait_until

PATH = "/v1/messages"


def line(uid: str, item_id: str = "aa", **members: Any) -> dict[str, Any]:
    return {"uid": uid, "system": "gregor", "body": {"create": {item_id: {"category": "user.joined"}}}, **members}


def lines(*documents: Any) -> bytes:
    return b"".join(json.dumps(document).encode() + b"\n" for document in documents)


def entries(answer: httpx.Response) -> list[dict[str, Any]]:
    assert answer.status_code == 200
    return [json.loads(text) for text in answer.text.splitlines()]


def outcomes(found: Iterable[dict[str, Any]]) -> list[tuple[int, str | None, str]]:
    return [
        (entry["line"], entry["uid"], entry["problem"]["code"] if "problem" in entry else "receipt") for entry in found
    ]


async def ndjson(api: Api, content: Any, token: str | None = None) -> httpx.Response:
    return await api.call("POST", PATH, token, content=content, headers=NDJSON)


async def test_array_response_is_in_order(api: Api) -> None:
    answer = await api.call("POST", PATH, json=[line("bob"), {**line(""), "uid": None, "uids": ["alice", "bob"]}])

    assert answer.headers["content-type"] == "application/json"
    found = answer.json()
    assert outcomes(found) == [(0, "bob", "receipt"), (1, "alice", "receipt"), (1, "bob", "receipt")]
    assert found[0]["receipt"]["created"] == ["aa"]
    assert found[2]["receipt"]["ignored"] == {"aa": "duplicate"}


@pytest.mark.parametrize(
    ("document", "code"),
    [
        (5, "invalid"),
        (line("alice", "not an id"), "invalid_id"),
        (line("alice") | {"uids": ["bob"]}, "invalid"),
        ({"uid": "alice", "system": "gregor", "body": {"dismiss": {"ids": [1]}}}, "invalid_id"),
        ({"uid": "alice", "system": "chat", "body": 2, "id": "m"}, "id_reused"),
    ],
)
async def test_refused_line_leaves_no_error(api: Api, document: Any, code: str) -> None:
    """The traceback of an error has the text and the document of its line."""
    await ndjson(api, lines({"uid": "alice", "system": "chat", "body": 1, "id": "m"}))
    with garbage_collection_off():
        before = kept_errors()
        for _ in range(3):
            answer = await ndjson(api, lines(document))
            assert entries(answer)[0]["problem"]["code"] == code

        assert kept_errors() == before


async def test_ndjson_response_is_in_order(api: Api) -> None:
    answer = await ndjson(api, lines(line("bob"), line("alice"), line("bob", "bb")))

    assert answer.headers["content-type"] == "application/x-ndjson"
    found = entries(answer)
    assert outcomes(found) == [(0, "bob", "receipt"), (1, "alice", "receipt"), (2, "bob", "receipt")]
    assert [entry["receipt"]["seq"] for entry in found] == [1, 1, 2]


BAD: list[tuple[Any, str | None, str]] = [
    ("no object", None, "invalid"),
    ({"system": "gregor", "body": {}}, None, "missing_field"),
    ({**line("alice"), "uids": ["bob"]}, None, "invalid"),
    ({**line("a b")}, None, "invalid_id"),
    ({**line(""), "uid": None, "uids": []}, None, "invalid"),
    ({**line(""), "uid": None, "uids": ["u"] * 1_001}, None, "too_many"),
    ({"uid": "alice", "system": "gregor", "body": {}}, "alice", "invalid"),
    (line("alice", typo=1), "alice", "unknown_field"),
    (line("alice", "new", device="a b"), "alice", "invalid_id"),
]


@pytest.mark.parametrize(("bad", "uid", "code"), BAD)
async def test_invalid_line_does_not_affect_others(api: Api, bad: Any, uid: str | None, code: str) -> None:
    expected = [(0, "alice", "receipt"), (1, uid, code), (2, "bob", "receipt")]

    assert outcomes(entries(await ndjson(api, lines(line("alice"), bad, line("bob"))))) == expected
    assert outcomes((await api.call("POST", PATH, json=[line("alice"), bad, line("bob")])).json()) == expected


async def test_malformed_line_does_not_affect_others(api: Api) -> None:
    raw = lines(line("alice")) + b'\r\n{"uid":\n\n{"a":1,"a":2}\n' + lines(line("bob")).rstrip()

    assert outcomes(entries(await ndjson(api, raw))) == [
        (0, "alice", "receipt"),
        (2, None, "malformed_json"),
        (4, None, "malformed_json"),
        (5, "bob", "receipt"),
    ]


async def test_malformed_element_does_not_affect_others(api: Api) -> None:
    raw = b'[{"a":1,"a":2},' + json.dumps(line("bob")).encode() + b"]"

    found = (await api.call("POST", PATH, content=raw)).json()

    assert outcomes(found) == [(0, None, "malformed_json"), (1, "bob", "receipt")]


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b'"\\ud800"', "malformed_json"),
        (b'"\\udc00\\ud800"', "malformed_json"),
        (b'{"\\uD8ff":1}', "malformed_json"),
        (b'"\\\\ud800, \\ud83d\\ude00"', "receipt"),
    ],
)
async def test_lone_surrogate_does_not_affect_others(api: Api, body: bytes, expected: str) -> None:
    element = b'{"uid":"alice","system":"kbfs","body":%s}'
    raw = b" [ " + b" ,\n".join([element % b"1", element % body, element % b'"\\ud800"', element % b"2"]) + b"]"

    found = (await api.call("POST", PATH, content=raw)).json()

    assert [outcome for _, _, outcome in outcomes(found)] == ["receipt", expected, "malformed_json", "receipt"]


async def test_number_out_of_range_fails_each_user(api: Api) -> None:
    raw = b'{"uids":["alice","bob"],"system":"kbfs","body":[1,9007199254740992]}\n'

    found = entries(await ndjson(api, raw))

    assert outcomes(found) == [(0, "alice", "number_out_of_range"), (0, "bob", "number_out_of_range")]
    assert found[0]["problem"]["errors"][0]["pointer"] == "/body/1"


async def test_empty_lines_are_only_numbered() -> None:
    async with Api(max_batch=2) as api:
        raw = b"\n\n\n" + lines(line("alice")) + b"\n\n" + lines(line("bob"))

        assert outcomes(entries(await ndjson(api, raw))) == [(3, "alice", "receipt"), (6, "bob", "receipt")]


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (b"", (400, "malformed_json")),
        (b"[", (400, "malformed_json")),
        (b'[{"a":}]', (400, "malformed_json")),
        (b"\xff", (400, "malformed_json")),
        (b"[" * 100_000, (400, "malformed_json")),
        (b"{}", (422, "invalid")),
    ],
)
async def test_body_that_is_not_an_array_is_refused(api: Api, raw: bytes, expected: tuple[int, str]) -> None:
    assert code_of(await api.call("POST", PATH, content=raw)) == expected


async def test_empty_batch_has_an_empty_response(api: Api) -> None:
    assert (await api.call("POST", PATH, json=[])).json() == []
    answer = await ndjson(api, b"\n\n")
    assert (answer.status_code, answer.content) == (200, b"")


async def test_batch_over_a_limit_commits_nothing() -> None:
    async with Api(max_batch=3, max_batch_bytes=2_000, max_batch_lines_x_uids=5) as api:
        many = [line("alice", f"i{n}") for n in range(4)]
        users = [{**line(""), "uid": None, "uids": ["u1", "u2", "u3"]}] * 2
        large = [line("alice", "x", id="i" * 100)] * 30

        for batch in (many, users, large):
            assert code_of(await api.call("POST", PATH, json=batch)) == (413, "batch_too_large")
            assert code_of(await ndjson(api, lines(*batch))) == (413, "batch_too_large")
        assert await api.store.users.heads(["alice", "u1"]) == [None, None]


async def pieces(*parts: bytes) -> AsyncIterator[bytes]:
    for part in parts:
        yield part


async def test_stream_over_a_limit_ends_with_the_error() -> None:
    async with Api(max_batch=3, max_batch_bytes=2_000, max_batch_lines_x_uids=5) as api:
        first = lines(line("alice"), line("alice", "bb"))
        two = {**line(""), "uid": None, "uids": ["u1", "u2", "u3", "u4"]}

        many = entries(await ndjson(api, pieces(first, lines(line("alice", "cc"), line("alice", "dd")))))
        users = entries(await ndjson(api, pieces(first, lines(two), lines(line("late")))))
        large = entries(await ndjson(api, pieces(first, b" " * 3_000)))

    start = [(0, "alice", "receipt"), (1, "alice", "receipt")]
    assert outcomes(many) == [*start, (2, "alice", "receipt"), (3, None, "batch_too_large")]
    assert outcomes(users) == [*start, (2, None, "batch_too_large")]
    assert outcomes(large) == [*start, (2, None, "batch_too_large")]


async def test_line_over_the_message_limit_fails_alone() -> None:
    async with Api(max_message_bytes=500) as api:
        plain = {"create": {"aa": {"category": "user.joined", "body": "x" * 600}}}

        found = entries(await ndjson(api, lines(line("alice", "x" * 600), line("alice", body=plain), line("bob"))))

        assert [outcome for _, _, outcome in outcomes(found)] == ["message_too_large"] * 2 + ["receipt"]


@pytest.mark.parametrize("users", [{"uid": "a" * 128}, {"uids": [f"{n:0128}" for n in range(MAX_UIDS)]}])
async def test_uids_do_not_count_as_message_bytes(users: dict[str, Any]) -> None:
    message = {"system": "kbfs", "body": "x" * 470}
    room = len(json.dumps(message, separators=(",", ":")))
    async with Api(max_message_bytes=room) as api:
        fits = json.dumps({**users, **message}, separators=(",", ":"))
        over = json.dumps({**users, **message, "body": "x" * 480}, separators=(",", ":"))

        found = entries(await ndjson(api, f"{fits}\n{over}\n".encode()))

        said = {(number, outcome) for number, _, outcome in outcomes(found)}
        assert said == {(0, "receipt"), (1, "message_too_large")}


def straight(api: Api, receive: Any, send: Any, kind: bytes = b"application/x-ndjson") -> Awaitable[None]:
    """Call the batch endpoint over ASGI directly: httpx sends the whole body, plus an empty chunk, before it reads."""
    headers = [(b"authorization", f"Bearer {api.key}".encode()), (b"content-type", kind)]
    scope = {"type": "http", "method": "POST", "path": PATH, "query_string": b"", "headers": headers}
    return api.app(scope, receive, send)


async def test_batch_in_one_piece_has_one_response_write() -> None:
    """Including a last line without a line break, which must not cost a separate commit and write."""
    store = FlakyStore(Api().settings.limits)
    store.good_calls = 1
    outgoing: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": lines(*(line(f"u{n}") for n in range(3))).rstrip(), "more_body": False}

    async def send(message: Any) -> None:
        outgoing.append(message)

    async with Api(store) as api:
        await straight(api, receive, send)

    start, body = outgoing
    assert [code for _, _, code in outcomes(map(json.loads, body["body"].splitlines()))] == ["receipt"] * 3
    assert (b"content-length", b"%d" % len(body["body"])) in start["headers"]
    assert not body.get("more_body")


async def test_first_results_precede_the_last_commits() -> None:
    store = FlakyStore(Api().settings.limits)
    store.good_calls = 1
    outgoing: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {
            "type": "http.request",
            "body": lines(*(line(f"u{n}") for n in range(CHUNK_ENTRIES + 1))),
            "more_body": False,
        }

    async def send(message: Any) -> None:
        outgoing.append(message)

    async with Api(store) as api:
        await straight(api, receive, send)

    told = [outcomes(map(json.loads, message["body"].splitlines())) for message in outgoing[1:]]
    assert [{code for _, _, code in piece} for piece in told if piece] == [{"receipt"}, {"unavailable"}]


async def test_lines_are_committed_while_others_arrive(api: Api) -> None:
    incoming: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
    outgoing: list[dict[str, Any]] = []

    async def send(message: Any) -> None:
        outgoing.append(message)

    serving = asyncio.ensure_future(straight(api, incoming.get, send))
    half = lines(line("bob"))

    incoming.put_nowait({"type": "http.request", "body": lines(line("alice")) + half[:20], "more_body": True})
    await wait_until(lambda: len(outgoing) == 2, "the first line is answered")
    assert outcomes([json.loads(outgoing[1]["body"])]) == [(0, "alice", "receipt")]
    incoming.put_nowait({"type": "http.request", "body": half[20:], "more_body": False})
    await serving

    body = b"".join(message.get("body", b"") for message in outgoing)
    assert outcomes(json.loads(text) for text in body.splitlines()) == [(0, "alice", "receipt"), (1, "bob", "receipt")]


async def test_client_that_reads_nothing_blocks_nothing(api: Api) -> None:
    incoming: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
    is_read = asyncio.Event()

    async def send(_message: Any) -> None:
        await is_read.wait()

    serving = asyncio.ensure_future(straight(api, incoming.get, send))
    for n in range(10):
        incoming.put_nowait({"type": "http.request", "body": lines(line(f"u{n}")), "more_body": n < 9})

    await wait_until(incoming.empty, "everything is read")
    is_read.set()
    await serving

    assert None not in await api.store.users.heads([f"u{n}" for n in range(10)])


async def test_batch_of_a_device_token_is_for_its_user(api: Api) -> None:
    batch = [line("alice"), line("bob"), {**line(""), "uid": None, "uids": ["alice", "bob"]}, line("alice", device="x")]

    found = (await api.call("POST", PATH, api.token(), json=batch)).json()

    assert outcomes(found) == [
        (0, "alice", "receipt"),
        (1, "bob", "forbidden"),
        (2, "alice", "forbidden"),
        (2, "bob", "forbidden"),
        (3, "alice", "forbidden"),
    ]


async def test_rate_limit_applies_line_by_line(api: Api) -> None:
    key = await api.make_key("ingest", rate=3)

    found = (await api.call("POST", PATH, key, json=[line(f"u{n}") for n in range(5)])).json()

    assert [code for _, _, code in outcomes(found)] == ["receipt"] * 3 + ["rate_limited"] * 2
    assert found[3]["problem"]["retry_after_ms"] > 0


@pytest.mark.parametrize("form", ["array", "ndjson"])
async def test_invalid_lines_of_a_device_use_its_rate_limit(form: str) -> None:
    item = b'{"category":"user.joined","body":' + b"[" * 50 + b"1e999" + b"]" * 50 + b"}"
    nested = b'{"uid":"alice","system":"gregor","body":{"create":{"aa":' + item + b"}}}"
    async with Api(device_rate=0.001, device_burst=5) as api:
        body = b"[" + b",".join([nested] * 8) + b"]" if form == "array" else b"\n".join([nested] * 8)
        kind = "application/json" if form == "array" else "application/x-ndjson"
        answer = await api.call("POST", PATH, api.token(), {"Content-Type": kind}, content=body)

        found = entries(answer) if form == "ndjson" else answer.json()
        assert [code for _, _, code in outcomes(found)] == ["number_out_of_range"] * 5 + ["rate_limited"] * 3
        assert code_of(await api.send("alice", {"dismiss": {"ids": ["a"]}}, api.token())) == (429, "rate_limited")
        assert code_of(await api.call("POST", PATH, api.token(), json=[])) == (429, "rate_limited")


async def test_long_lines_take_more_of_the_rate() -> None:
    long = b'{"uid":"alice","system":"gregor","body":[' + b"0," * 30_000 + b"1e999]}"
    async with Api(device_rate=0.001, device_burst=20) as api:
        answer = await ndjson(api, b"\n".join([long] * 4), api.token())

        # each weighs 8
        codes = ["number_out_of_range"] * 2 + ["rate_limited"] * 2
        assert [code for _, _, code in outcomes(entries(answer))] == codes


@pytest.mark.parametrize(("piece", "count"), [(b"\n" * 24_576, 1), (b" \r\n" * 64, 128)])
async def test_empty_lines_of_a_device_use_its_rate(piece: bytes, count: int) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(count):
            yield piece

    async with Api(device_rate=0.001, device_burst=5) as api:
        first = await ndjson(api, pieces(), api.token())
        again = await ndjson(api, pieces(), api.token())
        by_key = await ndjson(api, pieces())

        # the batch takes 1, and each 8 KiB 1 more
        assert (first.status_code, first.content) == (200, b"")
        assert code_of(again) == (429, "rate_limited")
        assert by_key.status_code == 200


async def test_some_empty_lines_cost_nothing() -> None:
    async with Api(device_rate=0.001, device_burst=3) as api:
        body = b"\n\n".join([lines(line("alice"))] * 3)
        answer = await ndjson(api, body + b"\n", api.token())

        assert [code for _, _, code in outcomes(entries(answer))] == ["receipt"] * 3


async def test_longest_line_fits_into_a_small_burst() -> None:
    ids = [f"{n:0128}" for n in range(200)]
    line = {"uid": "alice", "system": "gregor", "body": {"dismiss": {"ids": ids}}}
    async with Api(device_rate=0.001, device_burst=2) as api:
        answer = await ndjson(api, json.dumps(line).encode(), api.token())

        assert outcomes(entries(answer)) == [(0, "alice", "receipt")]


async def test_line_over_the_rate_of_a_device_is_not_decoded() -> None:
    async with Api(device_rate=0.001, device_burst=1) as api:
        answer = await ndjson(api, lines(line("alice")) + b"not JSON\n", api.token())

        assert outcomes(entries(answer)) == [(0, "alice", "receipt"), (1, "alice", "rate_limited")]


async def test_invalid_lines_of_a_limited_key_use_its_rate(api: Api) -> None:
    key = await api.make_key("ingest", rate=4)
    assert (await api.call("POST", PATH, key, json=[{"uid": "alice"}] * 4)).status_code == 200

    found = (await api.call("POST", PATH, key, json=[line("alice")])).json()

    assert outcomes(found) == [(0, "alice", "rate_limited")]


@pytest.mark.parametrize("form", ["array", "ndjson"])
async def test_device_batch_has_at_most_100_lines_and_1_mib(form: str) -> None:
    async with Api(device_burst=1_000) as api:
        for batch, status in (([line("alice")] * 100, 200), ([line("alice")] * 101, 413)):
            if form == "array":
                answer = await api.call("POST", PATH, api.token(), json=batch)
            else:
                answer = await ndjson(api, lines(*batch), api.token())
            assert answer.status_code == status
        large = b" " * (1 << 20) + b"[]"
        assert code_of(await api.call("POST", PATH, api.token(), content=large)) == (413, "batch_too_large")
        assert (await api.call("POST", PATH, content=large)).status_code == 200


async def test_device_line_names_its_user_once(api: Api) -> None:
    twice = {**line(""), "uid": None, "uids": ["alice", "alice"]}

    found = (await api.call("POST", PATH, api.token(), json=[twice, {**twice, "uids": ["alice"]}])).json()

    assert outcomes(found) == [(0, "alice", "too_many"), (0, "alice", "too_many"), (1, "alice", "receipt")]


@pytest.mark.parametrize("form", ["array", "ndjson"])
async def test_batch_yields_while_it_reads_lines(api: Api, form: str) -> None:
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    async def send(_message: Any) -> None:
        pass

    bad = b'{"uid":"alice","x":"' + b"a" * 8_000 + b'"}'
    batch = b"[" + b",".join([bad] * 80) + b"]" if form == "array" else b"\n".join([bad] * 80)
    body = iter([{"type": "http.request", "body": batch, "more_body": False}])

    async def receive() -> Any:
        return next(body)

    counting = asyncio.create_task(count())
    await straight(api, receive, send, b"application/json" if form == "array" else b"application/x-ndjson")
    counting.cancel()

    assert turns >= 80 // (65_536 // 8_000 + 1)


async def test_flush_in_a_batch_needs_admin(api: Api) -> None:
    flush = {"uid": "alice", "system": "gregor", "body": {"flush": True}}

    found = (await api.call("POST", PATH, await api.make_key("ingest"), json=[flush, line("alice")])).json()

    assert outcomes(found) == [(0, "alice", "forbidden"), (1, "alice", "receipt")]


@pytest.mark.parametrize("scopes", [("admin",), ("admin", "ingest")])
async def test_batch_needs_the_scopes_of_its_lines(api: Api, scopes: tuple[str, ...]) -> None:
    flush = {"uid": "alice", "system": "gregor", "body": {"flush": True}}

    found = (await api.call("POST", PATH, await api.make_key(*scopes), json=[line("alice"), flush])).json()

    assert outcomes(found) == [
        (0, "alice", "receipt" if "ingest" in scopes else "forbidden"),
        (1, "alice", "receipt"),
    ]


async def test_batch_of_a_key_respects_its_prefixes(api: Api) -> None:
    key = await api.make_key("ingest", prefixes=["user"])
    other = {"uid": "alice", "system": "gregor", "body": {"create": {"bb": {"category": "chat"}}}}

    found = (await api.call("POST", PATH, key, json=[line("alice"), other])).json()

    assert outcomes(found) == [(0, "alice", "receipt"), (1, "alice", "category_not_allowed")]


async def test_idempotency_key_is_refused_for_a_batch(api: Api) -> None:
    answer = await api.call("POST", PATH, json=[line("alice")], headers={"Idempotency-Key": "m1"})

    assert code_of(answer) == (422, "invalid")


class FlakyStore(MemoryStore):
    """A store that fails after some calls of ``commit_many``."""

    good_calls = 0

    @property
    def users(self) -> Any:
        return self

    async def commit_many(self, commits: Any) -> Any:
        if self.good_calls == 0:
            raise Unavailable("cannot connect to redis.inside:6379")
        self.good_calls -= 1
        return await super().users.commit_many(commits)


async def test_store_outage_mid_stream_fails_later_lines() -> None:
    store = FlakyStore(Api().settings.limits)
    async with Api(store) as api:
        assert code_of(await ndjson(api, lines(line("alice")))) == (503, "unavailable")

        store.good_calls = 1
        found = entries(await ndjson(api, pieces(lines(line("alice")), lines(line("bob")))))

    assert outcomes(found) == [(0, "alice", "receipt"), (1, "bob", "unavailable")]
    assert "inside" not in found[1]["problem"]["detail"]


async def test_store_outage_mid_array_fails_later_lines() -> None:
    store = FlakyStore(Api().settings.limits)
    store.good_calls = 1
    async with Api(store) as api:
        found = (await api.call("POST", PATH, json=[line(f"u{n}") for n in range(CHUNK_ENTRIES + 1)])).json()

    assert [code for _, _, code in outcomes(found)] == ["receipt"] * CHUNK_ENTRIES + ["unavailable"]


async def test_array_of_tiny_elements_is_refused_before_it_is_split(api: Api) -> None:
    # What follows the line too many is not read: splitting 1 MiB of tiny elements would block the process.
    body = b"[" + b",".join([b"0"] * 101) + b" and no JSON"
    answer = await api.call("POST", PATH, api.token(), {"Content-Type": "application/json"}, content=body)

    assert code_of(answer) == (413, "batch_too_large")
