"""The port of probes of a service without public HTTP: its limits, and its metrics."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from gregor.config.settings import Settings
from gregor.core.limits import Limits
from gregor.metrics.process import Metrics
from gregor.reference.store import MemoryStore
from gregor.web.process import ProbeServer
from gregor.web.readiness import Readiness
from tests.support.ports import free_port
from tests.support.unfinished_requests import UnfinishedRequests


@contextlib.asynccontextmanager
async def probe_port(**settings: Any) -> AsyncIterator[tuple[int, Metrics]]:
    metrics, port = Metrics(), free_port()
    readiness = Readiness(MemoryStore(Limits()), metrics)
    await readiness.check()
    server = ProbeServer(Settings(**settings, delivery_port=port), readiness, metrics, "delivery_port")
    server.start()
    yield port, metrics
    await server.close()


async def status(port: int, path: str, **headers: str) -> int:
    async with httpx.AsyncClient(trust_env=False) as client:
        return (await client.get(f"http://127.0.0.1:{port}{path}", headers=headers)).status_code


async def test_address_is_refused_by_probe_port_one_above_its_limit() -> None:
    async with probe_port(trusted_proxies=("192.0.2.1",), max_connections_per_address=4) as (port, metrics):
        held = []
        for _ in range(4):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n")
            assert b" 200 " in await reader.readline()
            held.append(writer)
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        refusal = await reader.readline()
        for each in (*held, writer):
            each.close()

        assert b" 429 " in refusal
        assert metrics.connections_refused.labels("address")._value.get() == 1


@pytest.mark.parametrize("is_admin_port", [False, True])
async def test_supervisor_reaches_a_probe_port_that_is_full_of_unfinished_requests(is_admin_port: bool) -> None:
    admin_port = free_port()
    settings = {"admin_port": admin_port} if is_admin_port else {}
    async with probe_port(max_connections_process=32, **settings) as (port, metrics):
        probed = admin_port if is_admin_port else port
        async with UnfinishedRequests(probed, 32):
            assert [await status(probed, "/readyz") for _ in range(20)] == [200] * 20

        assert metrics.connections_refused.labels("process")._value.get() >= 20


@pytest.mark.parametrize(("is_public", "expected"), [(False, 404), (True, 200)])
async def test_forwarded_request_sees_no_metrics(is_public: bool, expected: int) -> None:
    async with probe_port(metrics_public=is_public) as (port, _):
        assert await status(port, "/metrics") == 200
        assert await status(port, "/metrics", **{"X-Forwarded-For": "127.0.0.1"}) == expected
        assert await status(port, "/readyz", **{"X-Forwarded-For": "127.0.0.1"}) == 200


@pytest.mark.parametrize(("proxies", "expected"), [(("127.0.0.1",), 404), (("192.0.2.1",), 200)])
async def test_trusted_proxy_without_headers_gets_no_metrics(proxies: tuple[str, ...], expected: int) -> None:
    async with probe_port(trusted_proxies=proxies) as (port, _):
        assert await status(port, "/metrics") == expected
        assert await status(port, "/readyz") == 200


async def test_admin_port_of_probes_shows_metrics_to_everybody() -> None:
    admin_port = free_port()
    async with probe_port(admin_port=admin_port) as (port, _):
        assert await status(port, "/metrics") == 404
        assert await status(admin_port, "/metrics", **{"X-Forwarded-For": "8.8.8.8"}) == 200


PAGES: tuple[dict[str, str], ...] = (
    {"Host": "evil.example", "User-Agent": "Mozilla/5.0", "Accept-Language": "en"},
    {"Origin": "https://evil.example"},
    {"Sec-Fetch-Site": "cross-site"},
    {"Sec-Fetch-Site": "same-site"},
)


@pytest.mark.parametrize("headers", PAGES)
async def test_web_page_cannot_read_the_admin_port(headers: dict[str, str]) -> None:
    admin_port = free_port()
    async with probe_port(admin_port=admin_port):
        for path in ("/metrics", "/readyz", "/healthz"):
            assert await status(admin_port, path, **headers) == 403
            assert (
                await status(admin_port, path, **{"Host": "gregor.prod.example", "User-Agent": "Prometheus/3"}) == 200
            )
            assert await status(admin_port, path, **{"User-Agent": "Mozilla/5.0", "Sec-Fetch-Site": "none"}) == 200


@pytest.mark.parametrize("headers", PAGES)
@pytest.mark.parametrize(("is_public", "expected"), [(False, 403), (True, 200)])
async def test_web_page_reads_no_metrics_unless_they_are_public(
    headers: dict[str, str], is_public: bool, expected: int
) -> None:
    async with probe_port(metrics_public=is_public) as (port, _):
        assert await status(port, "/metrics", **headers) == expected
        assert await status(port, "/readyz", **headers) == 200
