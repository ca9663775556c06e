"""A fuzzed run of ingest with planted secrets: none reaches the log, the metrics or the OpenAPI document."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator
from contextlib import redirect_stderr
from random import Random
from typing import Any

import pytest
import structlog

from gregor.core.limits import Limits
from gregor.reference.store import MemoryStore
from gregor.telemetry import configure_logging
from tests.support.api import Api

CANARY = "CANARYcanaryCANARY"
JWT = f"eyJhbGciOiJIUzI1NiJ9.{CANARY}.{CANARY}"
KEY, WEBHOOK_SECRET = f"gk_ab12_{CANARY}", f"whsec_{CANARY}"
URL = f"rediss://gregor:{CANARY}@redis.example:6380/0"
TEXTS = (JWT, KEY, WEBHOOK_SECRET, URL, f"https://idp.example/keys?api_key={CANARY}")
LINES = 150
PATHS = (
    "/v1/users/alice/state",
    "/v1/users/alice/history",
    "/v1/users/alice/devices",
    f"/v1/unsubscribe/{CANARY}.{CANARY}",
    f"/v1/users/alice/state?ticket={CANARY}",
    f"/v1/stream?token={JWT}",
    "/v1/keys",
    "/v1/webhooks",
    "/v1/flush",
    "/v1/users/alice/messages",
    f"/v1/nothing/{KEY}",
)


@pytest.fixture
def log() -> Iterator[io.StringIO]:
    """The log of a process at its lowest level; restores the logging configuration afterwards."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    with redirect_stderr(io.StringIO()) as written:
        configure_logging("ingest", "debug")
        yield written
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


class LeakyUsers:
    """The users of a store whose failures have a secret in their text, as those of libraries may have."""

    def __init__(self, users: Any, random: Random) -> None:
        self._users, self._random = users, random

    def __getattr__(self, name: str) -> Any:
        if self._random.random() < 0.9:
            text = f"cannot connect with {self._random.choice(TEXTS)}"
            raise self._random.choice((RuntimeError, ValueError, OSError))(text)
        return getattr(self._users, name)


class LeakyStore(MemoryStore):
    """A store whose users fail nine times of ten."""

    random = Random(0)

    @property
    def users(self) -> Any:
        """See ``LeakyUsers``."""
        return LeakyUsers(super().users, self.random)


async def fuzzed_request(api: Api, random: Random) -> None:
    headers = {
        random.choice(("Authorization", "Cookie", "X-Request-Id", "Origin", "Sec-WebSocket-Protocol")): random.choice(
            (f"Bearer {JWT}", f"Bearer {KEY}", f"__Host-gregor_token={JWT}", KEY, JWT)
        )
    }
    body: Any = random.choice(
        (
            None,
            {"url": URL, "name": WEBHOOK_SECRET},
            {"scopes": ["ingest"], "name": KEY},
            {"system": "gregor", "body": {"create": {"a": {"category": "mail", "body": {"token": JWT}}}}},
            {"spread": 0, "token": JWT},
        )
    )
    token = random.choice((None, None, None, JWT, KEY, ""))
    method = random.choice(("GET", "POST", "PUT", "DELETE"))
    await api.call(method, random.choice(PATHS), token, headers if token == "" else None, json=body)


async def test_planted_secrets_of_a_fuzzed_run_stay_hidden(log: io.StringIO) -> None:
    """The redaction of 100,000 events of any shape is in tests/unit/test_telemetry.py."""
    random, requests, seen = Random(9), 0, 0
    async with Api(LeakyStore(Limits())) as api:
        while seen < LINES:
            assert requests < 20 * LINES, "the run writes too few lines"
            for _ in range(50):
                await fuzzed_request(api, random)
            requests += 50
            written = log.getvalue()
            log.seek(0)
            log.truncate()
            seen += written.count("\n")
            assert CANARY not in written, next(line for line in written.splitlines() if CANARY in line)
        metrics = (await api.call("GET", "/metrics")).text
        document = (await api.call("GET", "/openapi.json")).text

    assert CANARY not in metrics + document
