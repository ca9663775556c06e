"""HTTP in general: request ids, origins, unknown paths and methods, probes."""

import asyncio
import re
from pathlib import Path
from typing import Any

import httpx
import pytest
from structlog.testing import capture_logs

from gregor.redis.pubsub import MemoryPubSub
from gregor.reference.store import MemoryStore
from gregor.store.contract.store import Unavailable
from gregor.store.deleted_users import user_id_hash
from gregor.store.redis.errors import StoreFull
from gregor.telemetry import REFUSAL_LINES_BURST
from gregor.web.middleware import EXPOSED
from gregor.web.readiness import Readiness
from gregor_ingest.app import create_admin_app
from tests.support.api import Api, code_of
from tests.support.cpu_time import fastest
from tests.support.wait import wait_until

STATE = "/v1/users/alice/state"
PAGE = "https://app.example"


async def test_request_id_is_accepted_or_generated(api: Api) -> None:
    given = await api.call("GET", STATE, "", headers={"X-Request-Id": "order-66"})
    fresh = await api.call("GET", STATE, "", headers={"X-Request-Id": "bad id\x7f" + "x" * 100})

    assert given.json()["request_id"] == given.headers["x-request-id"] == "order-66"
    assert len(fresh.headers["x-request-id"]) == 16


@pytest.mark.parametrize("rest", ["", "/x/y", "/state/z"])
async def test_long_path_is_matched_once(api: Api, rest: str) -> None:
    """A stranger can send such a path. With Starlette's patterns, 8,000 characters took 75 times as long as ten."""

    def time_of(length: int) -> float:
        path = f"/v1/users/{'a' * length}{rest}"
        return fastest(lambda: [api.app.methods_at(path) for _ in range(10)])

    assert time_of(8_000) < 15 * time_of(10)


@pytest.mark.parametrize("slashes", [1, 16, 17, 2_000])
async def test_path_with_many_escaped_slashes_has_no_name(api: Api, slashes: int) -> None:
    name = "%2f" * slashes

    assert code_of(await api.call("GET", f"/v1/users/{name}/state")) == (422, "invalid_id")
    assert code_of(await api.call("GET", f"/v1/users/alice{name}state")) == (405, "method_not_allowed")
    assert code_of(await api.call("GET", f"/v1{name}keys")) == (404, "not_found")


@pytest.mark.parametrize("slash", ["%2F", "%2f"])
async def test_escaped_slash_is_not_a_path_separator(api: Api, slash: str) -> None:
    await api.create("alice", "aa")

    assert code_of(await api.call("GET", f"/v1/users/al{slash}ice/state")) == (422, "invalid_id")
    assert code_of(await api.call("GET", f"/v1/users/alice{slash}state")) == (405, "method_not_allowed")
    assert code_of(await api.call("GET", f"/v1{slash}keys")) == (404, "not_found")
    assert code_of(await api.call("POST", f"/v1{slash}messages", json=[])) == (404, "not_found")
    percent = await api.call("GET", "/v1/users/%61lice/items/a%61")
    assert percent.json()["id"] == "aa"


async def test_repeated_headers_are_joined(api: Api) -> None:
    """A proxy may have checked only one of them, so neither is used alone (RFC 9110, section 5.3)."""
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


async def test_unknown_path_is_a_problem(api: Api) -> None:
    assert code_of(await api.call("GET", "/nowhere")) == (404, "not_found")
    assert code_of(await api.call("GET", STATE + "/")) == (404, "not_found")
    assert code_of(await api.call("POST", "/v1/broadcasts")) == (404, "not_found")


async def test_unknown_path_names_the_documentation_only_if_it_is_served(api: Api) -> None:
    named = (await api.call("GET", "/nowhere", "")).json()["detail"]
    assert named == "There is nothing at this path; / has links to the documentation."
    for settings in ({"api_docs": False}, {"ingest_audience": "devices"}):
        async with Api(**settings) as bare:
            assert (await bare.call("GET", "/", "")).json()["detail"] == "There is nothing at this path."


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("GET", "/v1/messages", "OPTIONS, POST"),
        ("DELETE", "/v1/users/alice/messages", "GET, HEAD, OPTIONS, POST"),
        ("POST", STATE, "GET, HEAD, OPTIONS"),
        ("POST", "/v1/users/alice/devices/phone", "DELETE, GET, HEAD, OPTIONS, PATCH, PUT"),
        ("PUT", "/v1/keys", "GET, HEAD, OPTIONS, POST"),
        ("PATCH", "/v1/categories/rollback", "OPTIONS, POST"),
        ("TRACE", "/healthz", "GET, HEAD, OPTIONS"),
    ],
)
async def test_405_lists_allowed_methods(api: Api, method: str, path: str, allow: str) -> None:
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
async def test_415_lists_accepted_types(
    api: Api, method: str, path: str, headers: dict[str, str], accepted: tuple[str, str]
) -> None:
    answer = await api.call(method, path, headers=headers, content=b"{}")

    assert code_of(answer) == (415, "unsupported_media_type")
    assert answer.headers[accepted[0]] == accepted[1]


async def test_allowed_origin_gets_cors_headers() -> None:
    async with Api(origins=(PAGE, "http://localhost:*")) as api:
        for origin in (PAGE, "http://localhost", "http://localhost:3000", "http://gregor.test"):
            answer = await api.call("GET", STATE, headers={"Origin": origin})
            assert answer.status_code == 200
            assert answer.headers["access-control-allow-origin"] == origin
            exposed = answer.headers["access-control-expose-headers"]
            assert exposed == "ETag, Gregor-Cursor, Link, Location, RateLimit, RateLimit-Policy, Retry-After"
            assert answer.headers["vary"] == "Origin"


def test_page_names_the_exposed_headers() -> None:
    page = (Path(__file__).parents[3] / "docs" / "reference" / "http.md").read_text("utf-8")
    sentence = page.partition("response headers can be read across origins: ")[2].partition(".")[0]

    assert re.findall("`(.+?)`", sentence) == EXPOSED.decode().split(", ")


async def test_other_origins_are_403() -> None:
    async with Api(origins=(PAGE, "http://localhost:*")) as api:
        for origin in ("null", "http://app.example", PAGE + ":8443", PAGE + ".evil", "https://localhost:3000", "x"):
            for method in ("GET", "OPTIONS"):
                answer = await api.call(method, STATE, headers={"Origin": origin})
                assert code_of(answer) == (403, "origin_not_allowed")
                assert "access-control-allow-origin" not in answer.headers
                assert answer.headers["vary"] == "Origin"


async def test_no_cors_headers_without_origin(api: Api) -> None:
    answer = await api.call("GET", STATE)

    assert answer.status_code == 200
    assert "access-control-allow-origin" not in answer.headers
    # Otherwise a cache could give this response to a page, without the CORS headers that it needs.
    assert answer.headers["vary"] == "Origin"


async def test_preflight_needs_no_token() -> None:
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
async def test_options_lists_allowed_methods(api: Api, path: str, allow: str) -> None:
    answer = await api.call("OPTIONS", path, "")

    assert (answer.status_code, answer.headers["allow"]) == (204, allow)


async def test_errors_have_cors_headers() -> None:
    async with Api(origins=(PAGE,)) as api:
        answer = await api.call("GET", STATE, "", headers={"Origin": PAGE})

    assert code_of(answer) == (401, "unauthorised")
    assert answer.headers["access-control-allow-origin"] == PAGE


class UnresponsiveStore(MemoryStore):
    """A store whose pings can be made to fail."""

    is_there = True

    async def ping(self) -> dict[str, float | None]:
        if not self.is_there:
            raise Unavailable("gone")
        return await super().ping()


async def test_readiness_fails_after_three_store_errors() -> None:
    store = UnresponsiveStore(Api().settings.limits)
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


async def test_draining_process_is_alive_but_not_ready(api: Api) -> None:
    readiness: Readiness = api.app.state.context.readiness
    await readiness.check()
    readiness.stopping = True

    answer = await api.call("GET", "/readyz", "")

    assert answer.json() == {"ready": False, "checks": {"redis": "ok", "probe": "ok", "draining": True}}
    assert answer.status_code == 503
    assert (await api.call("GET", "/healthz", "")).status_code == 200


async def test_readiness_has_the_pubsub_state(api: Api) -> None:
    parts = api.app.state.context
    readiness = Readiness(api.store, parts.metrics, MemoryPubSub())
    await readiness.check()

    assert readiness.document()["checks"]["probe"] == "ok"


async def test_store_is_checked_while_the_process_runs(api: Api) -> None:
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


PROBES = ("metrics", "healthz", "readyz")


async def test_probes_and_metrics_move_to_the_admin_port() -> None:
    async with Api(admin_port=8790) as api:
        for path in ("/metrics", "/healthz", "/readyz"):
            moved = await api.call("GET", path, "")
            assert code_of(moved) == (404, "not_found")
            assert moved.json()["detail"] == f"{path} is served on the admin port (GREGOR_ADMIN_PORT)."
        transport = httpx.ASGITransport(create_admin_app(api.app))
        async with httpx.AsyncClient(transport=transport, base_url="http://gregor.test") as client:
            answer = await client.get("/metrics")
            assert answer.headers["content-type"].startswith("text/plain; version=")
            assert (await client.get("/healthz")).status_code == 200
            assert code_of(await client.get(STATE)) == (404, "not_found")
            assert (
                (await client.get("/"))
                .json()["detail"]
                .endswith("; the admin port has only /healthz, /readyz, /metrics.")
            )


@pytest.mark.parametrize(
    ("peer", "headers"),
    [
        ("8.8.8.8", {}),
        ("2606:4700::1111", {}),
        ("127.0.0.1", {"X-Forwarded-For": "127.0.0.1"}),
        ("10.0.0.1", {"Via": "x"}),
    ],
)
async def test_metrics_are_shown_to_internal_clients_only(peer: str, headers: dict[str, str]) -> None:
    for is_public in (False, True):
        async with Api(metrics_public=is_public) as api:
            transport = httpx.ASGITransport(api.app, client=(peer, 4711))
            async with httpx.AsyncClient(transport=transport, base_url="http://gregor.test") as client:
                answer = await client.get("/metrics", headers=headers)
                probe = await client.get("/healthz", headers=headers)

            assert answer.status_code == (200 if is_public else 404)
            assert is_public or "GREGOR_ADMIN_PORT" in answer.json()["detail"]
            assert probe.status_code == 200


async def test_web_page_reads_no_metrics_and_no_probe_of_the_admin_port() -> None:
    page = {"Host": "evil.example", "User-Agent": "Mozilla/5.0", "Accept-Language": "en"}
    async with Api() as api, Api(admin_port=8790) as other:
        admin = create_admin_app(other.app)
        for path, is_admin in (("/metrics", False), *((f"/{name}", True) for name in PROBES)):
            transport = httpx.ASGITransport(admin if is_admin else api.app, client=("127.0.0.1", 4711))
            async with httpx.AsyncClient(transport=transport, base_url="http://gregor.test") as client:
                assert code_of(await client.get(path, headers=page)) == (403, "forbidden")
                assert (await client.get(path)).status_code in (200, 503)


async def test_trusted_proxy_without_headers_gets_no_metrics() -> None:
    for proxies, expected in (("10.0.0.0/8", 404), ("192.0.2.1", 200)):
        async with Api(trusted_proxies=proxies) as api:
            transport = httpx.ASGITransport(api.app, client=("10.0.0.1", 4711))
            async with httpx.AsyncClient(transport=transport, base_url="http://gregor.test") as client:
                assert (await client.get("/metrics")).status_code == expected
                assert (await client.get("/healthz")).status_code == 200


async def test_requests_with_a_valid_key_are_not_anonymous() -> None:
    async with Api(trusted_proxies="192.0.2.1", anonymous_rate=0.5) as api:
        transport = httpx.ASGITransport(api.app, client=("203.0.113.9", 4711))
        async with httpx.AsyncClient(transport=transport, base_url="http://gregor.test") as client:

            async def status(token: str) -> int:
                return (await client.get(STATE, headers={"Authorization": f"Bearer {token}"})).status_code

            assert {await status(api.key) for _ in range(20)} == {200}
            assert {await status(api.token("alice")) for _ in range(20)} == {200}
            new_key = await api.make_key("read")
            assert [await status("x") for _ in range(6)] == [401] * 5 + [429]
            assert await status(api.token("alice")) == 429
            # A neighbour behind the same address must not block a backend that this process knows.
            assert (await status(api.key), await status(new_key)) == (200, 429)


async def test_key_over_its_rate_is_limited_by_itself() -> None:
    """Its refusals keep the process busy, so they are limited, but not those of its neighbours behind its address."""
    async with Api(trusted_proxies="192.0.2.1", anonymous_rate=0.5) as api:
        transport = httpx.ASGITransport(api.app, client=("203.0.113.9", 4711))
        limited = await api.make_key("ingest", rate=1)
        async with httpx.AsyncClient(transport=transport, base_url="http://gregor.test") as client:

            async def send(token: str) -> httpx.Response:
                body = {"system": "gregor", "body": {"dismiss": {"ids": ["x"]}}}
                headers = {"Authorization": f"Bearer {token}"}
                return await client.post("/v1/users/alice/messages", json=body, headers=headers)

            answers = [await send(limited) for _ in range(8)]
            assert [answer.status_code for answer in answers] == [200] + [429] * 7
            assert ["close" in answer.headers.get("connection", "") for answer in answers] == [False] * 6 + [True] * 2
            assert "GREGOR_ANONYMOUS_RATE" in answers[-1].text
            assert (await send(api.key)).status_code == 200
            assert (await send(api.token("alice"))).status_code == 200


async def test_unusable_keys_are_limited_by_address() -> None:
    """A key from an address that it does not allow, and one that has expired, after the process has read both."""
    async with Api(trusted_proxies="192.0.2.1", anonymous_rate=0.5) as api:
        transport = httpx.ASGITransport(api.app, client=("203.0.113.9", 4711))
        elsewhere = await api.make_key("read", addresses=["198.51.100.0/24"])
        expiring = await api.make_key("read", expires_us=api.clock.now_us() + 1_000_000)
        async with httpx.AsyncClient(transport=transport, base_url="http://gregor.test") as client:

            async def status(token: str) -> int:
                return (await client.get(STATE, headers={"Authorization": f"Bearer {token}"})).status_code

            assert await status(expiring) == 200
            api.clock.advance(2)
            assert [await status(elsewhere) for _ in range(6)] == [403] * 5 + [429]
            api.clock.advance(60)
            assert [await status(expiring) for _ in range(6)] == [401] * 5 + [429]


async def test_key_that_another_process_deleted_is_limited_by_address() -> None:
    """An unknown path needs no right, so the key is not read again."""
    async with Api(trusted_proxies="192.0.2.1", anonymous_rate=0.5) as api:
        transport = httpx.ASGITransport(api.app, client=("203.0.113.9", 4711))
        leaked = await api.make_key("read")
        async with httpx.AsyncClient(transport=transport, base_url="http://gregor.test") as client:

            async def status(path: str) -> int:
                return (await client.get(path, headers={"Authorization": f"Bearer {leaked}"})).status_code

            assert await status(STATE) == 200
            await api.store.access.delete_key(leaked[3:15])
            assert [await status("/nothing") for _ in range(6)] == [404] * 5 + [429]  # of the key
            api.clock.advance(api.settings.service_key_grace_s)
            assert [await status("/nothing") for _ in range(6)] == [404] * 5 + [429]


async def test_invalid_names_of_a_device_count_for_its_address() -> None:
    async with Api(trusted_proxies="192.0.2.1", anonymous_rate=0.5) as api:
        transport = httpx.ASGITransport(api.app, client=("203.0.113.9", 4711))
        async with httpx.AsyncClient(transport=transport, base_url="http://gregor.test") as client:

            async def status(token: str) -> int:
                path = "/v1/users/alice/items/-"
                return (await client.get(path, headers={"Authorization": f"Bearer {token}"})).status_code

            assert {await status(api.key) for _ in range(20)} == {422}
            assert [await status(api.token("alice")) for _ in range(6)] == [422] * 5 + [429]


async def test_refused_requests_are_logged_up_to_a_rate(api: Api) -> None:
    with capture_logs() as logs:
        first = await api.call("GET", STATE, "", headers={"X-Request-Id": "order-66"})
        await api.call("GET", STATE, api.token("bob"))
        for _ in range(REFUSAL_LINES_BURST + 20):
            await api.call("GET", STATE, "")

    lines = [line for line in logs if line["event"] == "request.refused"]
    assert first.status_code == 401
    assert (lines[0]["request_id"], lines[0]["status"], lines[0]["operation"]) == ("order-66", 401, "readState")
    assert (lines[0]["code"], lines[0]["peer"]) == ("unauthorised", "127.0.0.1")
    assert (lines[1]["status"], lines[1]["code"]) == (403, "forbidden")
    assert len(lines) < REFUSAL_LINES_BURST + 20


async def test_log_of_a_refused_request_names_its_caller(api: Api) -> None:
    """An operator must see which key is used wrongly, and from where; a user only as the hash of its id."""
    made = (await api.call("POST", "/v1/keys", json={"scopes": ["read"], "addresses": ["192.0.2.0/24"]})).json()
    reader = await api.make_key("read")
    with capture_logs() as logs:
        await api.call("GET", STATE, made["key"])
        await api.call("DELETE", "/v1/users/alice", reader)
        await api.call("GET", STATE, api.token("alice")[:-4])
        for _ in range(api.settings.limits.device_request_burst + 1):
            last = await api.call("GET", STATE, api.token("alice"))

    lines = [line for line in logs if line["event"] == "request.refused"]
    assert [(line["reason"], line.get("key_id")) for line in lines[:3]] == [
        ("key_address", made["id"]),
        ("key_scope", reader[3:15]),
        ("token_invalid", None),
    ]
    assert last.status_code == 429
    assert (lines[-1]["reason"], lines[-1]["user"]) == ("rate_limited", user_id_hash("alice"))
    assert {line["client"] for line in lines} == {"127.0.0.1"}


class FullStore(MemoryStore):
    """A store whose server refuses each message."""

    @property
    def users(self) -> Any:
        return self

    async def commit(self, uid: str, commit: Any) -> Any:
        raise StoreFull("OOM command not allowed when used memory > 'maxmemory'.")


async def test_unavailable_store_is_logged_with_its_reason_up_to_a_rate() -> None:
    message = {"system": "gregor", "body": {"create": {"i": {"category": "mail", "body": 1}}}}
    async with Api(FullStore(Api().settings.limits)) as api:
        with capture_logs() as logs:
            first = await api.call(
                "POST", "/v1/users/alice/messages", json=message, headers={"X-Request-Id": "order-66"}
            )
            for _ in range(REFUSAL_LINES_BURST + 20):
                await api.call("POST", "/v1/users/alice/messages", json=message)

    lines = [line for line in logs if line["event"] == "request.unavailable"]
    assert code_of(first) == (503, "unavailable")
    assert (lines[0]["request_id"], lines[0]["operation"]) == ("order-66", "sendMessage")
    assert (lines[0]["log_level"], lines[0]["reason"][:3]) == ("warning", "OOM")
    assert len(lines) < REFUSAL_LINES_BURST + 20


async def test_admin_port_shows_metrics_to_everybody() -> None:
    async with Api(admin_port=8790) as api:
        transport = httpx.ASGITransport(create_admin_app(api.app), client=("8.8.8.8", 4711))
        async with httpx.AsyncClient(transport=transport, base_url="http://gregor.test") as client:
            assert (await client.get("/metrics")).status_code == 200


async def test_forwarded_clients_are_limited() -> None:
    async with Api(trusted_proxies=("127.0.0.1",), max_connections_per_address=1) as api:
        forwarded = {"X-Forwarded-For": "203.0.113.9"}
        limiter = api.app.state.context.admission.limiter
        assert (await api.call("GET", STATE, headers=forwarded)).status_code == 200
        limiter.open_for("203.0.113.9", 0.0)
        refused = await api.call("GET", STATE, headers=forwarded)
        other = await api.call("GET", STATE, headers={"X-Forwarded-For": "203.0.113.10"})

    assert code_of(refused) == (429, "rate_limited")
    assert 1 <= int(refused.headers["retry-after"]) <= 5
    assert other.status_code == 200


async def test_api_docs_can_be_switched_off() -> None:
    async with Api(api_docs=False) as api:
        for path in ("/", "/docs", "/openapi.json"):
            assert code_of(await api.call("GET", path, "")) == (404, "not_found")
        assert (await api.call("GET", "/errors", "")).status_code == 200


@pytest.mark.parametrize("path", ["/healthz", "/metrics", "/nowhere", "/docs", "/errors", STATE, "/v1/unsubscribe/x"])
async def test_every_response_has_security_headers(api: Api, path: str) -> None:
    headers = (await api.call("GET", path)).headers

    assert headers.get_list("x-content-type-options") == ["nosniff"]
    assert headers["referrer-policy"] in ("no-referrer", "strict-origin")
    assert "frame-ancestors 'none'" in headers["content-security-policy"]
    assert len(headers.get_list("content-security-policy")) == 1


@pytest.mark.parametrize("path", ["/v1/keys", "/v1/webhooks", "/v1/jobs", "/v1/users/a/devices", "/v1/users/a/contact"])
async def test_private_responses_are_not_kept_in_caches(api: Api, path: str) -> None:
    response = await api.call("GET", path)

    assert (response.status_code, response.headers.get_list("cache-control")) == (200, ["no-store"])
