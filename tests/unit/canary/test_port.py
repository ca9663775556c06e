"""The port of the canary: its metrics, for monitoring only."""

import httpx
import pytest

from gregor.canary.metrics import CanaryMetrics
from gregor.canary.process import canary_app


@pytest.mark.parametrize("path", ["/metrics", "/healthz"])
async def test_web_page_cannot_read_the_port_of_the_canary(path: str) -> None:
    page = {"Host": "evil.example", "User-Agent": "Mozilla/5.0", "Accept-Language": "en"}
    transport = httpx.ASGITransport(canary_app(CanaryMetrics()))
    async with httpx.AsyncClient(transport=transport, base_url="http://canary.prod.example:8705") as client:
        assert (await client.get(path)).status_code == 200
        assert (await client.get(path, headers=page)).status_code == 403
