"""The door: request ids, origins, paths and methods that are not there, probes, pages."""

import asyncio
from typing import Any

import httpx
import pytest

from gregor.redis.pubsub import MemoryPubSub
from gregor.reference.store import MemoryStore
from gregor.store.contract.store import Unavailable
from gregor.web.readiness import Readiness
from gregor_ingest.app import create_admin_app
from tests.support.api import Api, code_of
from tests.support.wait import wait_until

STATE = "/v1/users/alice/state"
PAGE = "https://app.example"


async def test_a_request_has_the_id_that_its_caller_gave_it_or_a_fresh_one(api: Api) -> None:
    given = await api.call("GET", STATE, "", headers={"X-Request-Id": "order-66"})
    fresh = await api.call("GET", STATE, "", headers={"X-Request-Id": "bad id\x7f" + "x" * 100})

    assert given.json()["request_id"] == given.headers["x-request-id"] == "order-66"
    assert len(fresh.headers["x-request-id"]) == 16


@pytest.mark.parametrize("slash", ["%2F", "%2f"])
async def test_an_escaped_slash_parts_no_segments_and_is_in_no_name(api: Api, slash: str) -> None:
    await api.create("alice", "aa")

    assert code_of(await api.call("GET", f"/v1/users/al{slash}ice/state")) == (422, "invalid_id")
    assert code_of(await api.call("GET", f"/v1/users/alice{slash}state")) == (405, "method_not_allowed")
    assert code_of(await api.call("GET", f"/v1{slash}keys")) == (404, "not_found")
    assert code_of(await api.call("POST", f"/v1{slash}messages", json=[])) == (404, "not_found")
    percent = await api.call("GET", "/v1/users/%61lice/items/a%61")
    assert percent.json()["id"] == "aa"


async def test_a_header_given_twice_never_counts_as_one_of_the_two(api: Api) -> None:
    """Who stands in front may have looked at the other one (RFC 9110 §5.3: both are one list)."""
    good, other = ("Authorization", f"Bearer {api.key}"), ("Authorization", "Bearer x")
    for pair in ([good, other], [other, good], [good, good]):
        answer = await api.client.request("GET", STATE, headers=pair)
        assert code_of(answer) == (401, "unauthorised")

    ids = [good, ("Idempotency-Key", "a"), ("Idempotency-Key", "b")]
    message = {"system": "kbfs", "body": 1}
    answer = await api.client.request("POST", "/v1/users/alice/messages", headers=ids, json=message)
    assert code_of(answer) == (422, "invalid_id")
    etag = (await api.call("GET", STATE)).headers["etag"]
    known = [good, ("If-None-Match", '"another"'), ("If-None-Match", etag)]
    assert (await api.client.request("GET", STATE, headers=known)).status_code == 304


async def test_what_is_not_there_is_a_problem_too(api: Api) -> None:
    assert code_of(await api.call("GET", "/nowhere")) == (404, "not_found")
    assert code_of(await api.call("GET", STATE + "/")) == (404, "not_found")
    assert code_of(await api.call("POST", "/v1/broadcasts")) == (404, "not_found")


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("GET", "/v1/messages", "OPTIONS, POST"),
        ("DELETE", "/v1/users/alice/messages", "OPTIONS, POST"),
        ("POST", STATE, "GET, HEAD, OPTIONS"),
        ("POST", "/v1/users/alice/devices/phone", "DELETE, GET, HEAD, OPTIONS, PATCH, PUT"),
        ("PUT", "/v1/keys", "GET, HEAD, OPTIONS, POST"),
        ("PATCH", "/v1/categories/rollback", "OPTIONS, POST"),
        ("TRACE", "/healthz", "GET, HEAD, OPTIONS"),
    ],
)
async def test_another_method_is_refused_with_those_that_are_taken(
    api: Api, method: str, path: str, allow: str
) -> None:
    answer = await api.call(method, path)

    assert code_of(answer) == (405, "method_not_allowed")
    assert answer.headers["allow"] == allow


@pytest.mark.parametrize(
    ("method", "path", "headers", "accepted"),
    [
        ("POST", "/v1/users/alice/messages", {"Content-Type": "text/plain"}, ("accept", "application/json")),
        ("POST", "/v1/messages", {"Content-Type": "a/b"}, ("accept", "application/json, application/x-ndjson")),
        (
            "PATCH",
            "/v1/users/alice/contact",
            {"Content-Type": "a/b"},
            ("accept", "application/json, application/merge-patch+json"),
        ),
        ("POST", "/v1/keys", {"Content-Encoding": "gzip"}, ("accept-encoding", "identity")),
    ],
)
async def test_415_names_what_is_accepted(
    api: Api, method: str, path: str, headers: dict[str, str], accepted: tuple[str, str]
) -> None:
    answer = await api.call(method, path, headers=headers, content=b"{}")

    assert code_of(answer) == (415, "unsupported_media_type")
    assert answer.headers[accepted[0]] == accepted[1]


async def test_a_page_of_a_listed_origin_may_call_and_read_the_answer() -> None:
    async with Api(origins=(PAGE, "http://localhost:*")) as api:
        for origin in (PAGE, "http://localhost", "http://localhost:3000", "http://gregor.test"):
            answer = await api.call("GET", STATE, headers={"Origin": origin})
            assert answer.status_code == 200
            assert answer.headers["access-control-allow-origin"] == origin
            assert answer.headers["access-control-expose-headers"] == "ETag, Gregor-Cursor, Link, Retry-After"
            assert answer.headers["vary"] == "Origin"


async def test_a_page_of_any_other_origin_may_not() -> None:
    async with Api(origins=(PAGE, "http://localhost:*")) as api:
        for origin in ("null", "http://app.example", PAGE + ":8443", PAGE + ".evil", "https://localhost:3000", "x"):
            for method in ("GET", "OPTIONS"):
                answer = await api.call(method, STATE, headers={"Origin": origin})
                assert code_of(answer) == (403, "origin_not_allowed")
                assert "access-control-allow-origin" not in answer.headers
                assert answer.headers["vary"] == "Origin"


async def test_without_origin_everybody_may_call_and_gets_no_cors_headers(api: Api) -> None:
    answer = await api.call("GET", STATE)

    assert answer.status_code == 200
    assert "access-control-allow-origin" not in answer.headers
    # Else a cache may give this answer to a page, which needs the headers that it lacks.
    assert answer.headers["vary"] == "Origin"


async def test_a_preflight_needs_no_token() -> None:
    async with Api(origins=(PAGE,)) as api:
        headers = {"Origin": PAGE, "Access-Control-Request-Method": "PUT"}

        answer = await api.call("OPTIONS", "/v1/users/alice/devices/phone", "", headers=headers)

    assert (answer.status_code, answer.content) == (204, b"")
    assert answer.headers["access-control-allow-origin"] == PAGE
    assert "PUT" in answer.headers["access-control-allow-methods"]
    assert "Authorization" in answer.headers["access-control-allow-headers"]
    assert answer.headers["access-control-max-age"] == "7200"


@pytest.mark.parametrize(
    ("path", "allow"),
    [
        ("/v1/users/alice/devices/phone", "DELETE, GET, HEAD, OPTIONS, PATCH, PUT"),
        ("/v1/messages", "OPTIONS, POST"),
        ("/v1/categories/rollback", "OPTIONS, POST"),
        ("/nowhere", "OPTIONS"),
    ],
)
async def test_options_says_what_a_path_takes(api: Api, path: str, allow: str) -> None:
    answer = await api.call("OPTIONS", path, "")

    assert (answer.status_code, answer.headers["allow"]) == (204, allow)


async def test_a_refusal_can_be_read_by_a_page_of_a_listed_origin() -> None:
    async with Api(origins=(PAGE,)) as api:
        answer = await api.call("GET", STATE, "", headers={"Origin": PAGE})

    assert code_of(answer) == (401, "unauthorised")
    assert answer.headers["access-control-allow-origin"] == PAGE


class Mute(MemoryStore):
    """A store that answers pings only when it is told to."""

    is_there = True

    async def ping(self) -> None:
        if not self.is_there:
            raise Unavailable("gone")


async def test_readiness_goes_red_after_three_failures_and_green_after_one_answer() -> None:
    store = Mute(Api().settings.limits)
    async with Api(store) as api:
        readiness: Readiness = api.app.state.context.readiness

        async def seen() -> tuple[int, str]:
            answer = await api.call("GET", "/readyz", "")
            assert set(answer.json()) == {"ready", "checks"}
            return answer.status_code, answer.json()["checks"]["redis"]

        assert await seen() == (503, "down")
        await readiness.check()
        assert await seen() == (200, "ok")
        store.is_there = False
        states = []
        for _ in range(3):
            await readiness.check()
            states.append(await seen())
        assert states == [(200, "late"), (200, "late"), (503, "down")]
        store.is_there = True
        await readiness.check()
        assert await seen() == (200, "ok")
        assert (await api.call("GET", "/healthz", "")).status_code == 200


async def test_a_process_that_is_draining_is_alive_and_not_ready(api: Api) -> None:
    readiness: Readiness = api.app.state.context.readiness
    await readiness.check()
    readiness.draining = True

    answer = await api.call("GET", "/readyz", "")

    assert answer.json() == {"ready": False, "checks": {"redis": "ok", "probe": "ok", "draining": True}}
    assert answer.status_code == 503
    assert (await api.call("GET", "/healthz", "")).status_code == 200


async def test_the_state_of_the_feed_is_told_where_there_is_one(api: Api) -> None:
    parts = api.app.state.context
    readiness = Readiness(api.store, parts.metrics, MemoryPubSub())
    await readiness.check()

    assert readiness.document()["checks"]["probe"] == "ok"


async def test_the_store_is_watched_while_the_process_runs(api: Api) -> None:
    async def run_lifespan() -> None:
        incoming: asyncio.Queue[Any] = asyncio.Queue()
        said: list[str] = []

        async def send(message: Any) -> None:
            said.append(message["type"])

        incoming.put_nowait({"type": "lifespan.startup"})
        running = asyncio.create_task(api.app({"type": "lifespan", "asgi": {}}, incoming.get, send))
        await wait_until(lambda: said == ["lifespan.startup.complete"], "it is started")
        assert (await api.call("GET", "/readyz", "")).status_code == 200
        incoming.put_nowait({"type": "lifespan.shutdown"})
        await running
        assert said[-1] == "lifespan.shutdown.complete"

    await run_lifespan()


async def test_figures_move_to_the_port_of_administration_where_one_is_set() -> None:
    async with Api(admin_port=8790) as api:
        assert code_of(await api.call("GET", "/metrics", "")) == (404, "not_found")
        transport = httpx.ASGITransport(create_admin_app(api.app))
        async with httpx.AsyncClient(transport=transport, base_url="http://gregor.test") as client:
            answer = await client.get("/metrics")
            assert answer.headers["content-type"].startswith("text/plain; version=")
            assert (await client.get("/healthz")).status_code == 200
            assert code_of(await client.get(STATE)) == (404, "not_found")
