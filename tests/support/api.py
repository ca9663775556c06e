"""The HTTP API of ingest over the memory store, with a manual clock."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self, Unpack

import httpx

from gregor.auth.device_tokens import TokenVerifier, mint
from gregor.clock import ManualClock
from gregor.config.live_settings import LiveSettings
from gregor.config.settings import Settings
from gregor.reference.store import MemoryStore
from gregor.store.contract.access import KeyLimits
from gregor.store.contract.store import Store
from gregor_ingest.app import IngestApp, create_app

NOW_S = 1_457_056_500
"""The time of the clock: 53 seconds after the friend of the worked examples joined."""
SECRET = "a secret of the tests, long enough"
EVERY_SCOPE = ("ingest", "read", "devices", "deliveries", "categories", "broadcast", "admin")
NDJSON = {"Content-Type": "application/x-ndjson"}


class Api:
    """An ingest process in memory. ``key``: a service key with every scope."""

    def __init__(self, store: Store | None = None, **settings: Any) -> None:
        self.settings = Settings(token_secret=SECRET, **settings)
        self.clock = ManualClock(NOW_S * 1_000_000)
        self.store: Store = store or MemoryStore(self.settings.limits)
        self.app: IngestApp = create_app(
            LiveSettings(self.settings), self.store, self.clock, TokenVerifier(self.settings)
        )
        self.app.state.context.webhooks.poll_s = 0.0  # No other process has to learn about a new webhook.
        self.key = ""
        transport = httpx.ASGITransport(self.app, raise_app_exceptions=False)
        self.client = httpx.AsyncClient(transport=transport, base_url="http://gregor.test")

    async def __aenter__(self) -> Self:
        self.key = await self.make_key(*EVERY_SCOPE)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.client.aclose()

    async def make_key(
        self,
        *scopes: str,
        prefixes: Sequence[str] | None = None,
        rate: float | None = None,
        **limits: Unpack[KeyLimits],
    ) -> str:
        """Create a service key; returns its text."""
        _, text = await self.store.access.create_key(scopes, prefixes, rate, now_us=self.clock.now_us(), **limits)
        return text

    def token(
        self,
        uid: str = "alice",
        device: str = "phone",
        category_filter: Sequence[str] | None = None,
        systems: Sequence[str] | None = None,
    ) -> str:
        """Return a device token that is valid for an hour."""
        return mint(SECRET, uid, device, 3_600, category_filter, systems, now_us=self.clock.now_us())

    async def call(
        self, method: str, path: str, token: str | None = None, headers: dict[str, str] | None = None, **options: Any
    ) -> httpx.Response:
        """Send a request, by default with the key that has every scope; ``token=""``: without a token."""
        token = self.key if token is None else token
        bearer = {"Authorization": f"Bearer {token}"} if token else {}
        return await self.client.request(method, path, headers={**bearer, **(headers or {})}, **options)

    async def send(self, uid: str, body: Any, token: str | None = None, **members: Any) -> httpx.Response:
        """Send one message of the system ``gregor``."""
        message = {"system": "gregor", "body": body, **members}
        return await self.call("POST", f"/v1/users/{uid}/messages", token, json=message)

    async def create(self, uid: str, item_id: str, category: str = "user.joined", **item: Any) -> httpx.Response:
        """Create one item."""
        return await self.send(uid, {"create": {item_id: {"category": category, **item}}})


def code_of(answer: httpx.Response) -> tuple[int, str]:
    """Check the shape of a problem; returns its status and code."""
    document = answer.json()
    assert answer.headers["content-type"] == "application/problem+json"
    assert document["status"] == answer.status_code
    assert document["type"] == f"/errors#{document['code']}"
    assert document["request_id"] == answer.headers["x-request-id"]
    return answer.status_code, document["code"]
