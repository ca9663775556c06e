"""The path of a creation, as docs/architecture.md lists it, compared with the calls of a real one."""

from __future__ import annotations

import asyncio
import re
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

import gregor_gateway.__main__ as gateway
import gregor_ingest.__main__ as ingest
from gregor.client import AsyncProducer, Device, mint_device_token
from gregor.config.live_settings import LiveSettings
from gregor.config.settings import Settings, load_settings
from gregor.store.redis.store import open_store
from gregor.web.process import Shutdown
from tests.support.ports import free_port
from tests.support.wait import wait_until

ROOT = Path(__file__).parents[2]
PRODUCT = (f"{ROOT}/shared/", f"{ROOT}/services/")
SECRET = "a token secret for this test, long enough"
MAX_FILES = 25
MAX_FILES_CALLED = 57
"""All files of which a function runs, with leaf helpers such as clock, names and digests."""

Call = tuple[str, str]
"""A file relative to the project, and the qualified name of a function in it."""


def documented_path() -> list[Call]:
    """Return the functions that docs/architecture.md lists, in their order; Lua files have an empty function name."""
    page = (ROOT / "docs" / "architecture.md").read_text("utf-8")
    section = page.partition("## The path of a creation")[2].partition("\n## ")[0]
    return [
        (file, name or "") for file, name in re.findall(r"^\d+\. `([\w/.]+?)(?::([\w.]+))?`", section, re.MULTILINE)
    ]


@contextmanager
def recorded_calls() -> Iterator[list[Call]]:
    """Record the calls of product functions in this thread, in their order."""
    calls: list[Call] = []

    def profile(frame: FrameType, event: str, _: Any) -> None:
        code = frame.f_code
        if event == "call" and code.co_filename.startswith(PRODUCT):
            calls.append((str(Path(code.co_filename).relative_to(ROOT)), code.co_qualname))

    sys.setprofile(profile)
    try:
        yield calls
    finally:
        sys.setprofile(None)


@pytest.fixture
async def settings(redis_server: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Settings]:
    """Run an ingest and a gateway in this process. Their stop functions are collected instead of bound to signals."""
    stops: list[Callable[[], None]] = []
    monkeypatch.setattr(Shutdown, "on_signals", lambda shutdown: stops.append(shutdown.signal))
    ports = {f"GREGOR_{name}_PORT": str(free_port()) for name in ("INGEST", "GATEWAY", "STREAM")}
    settings = load_settings({"GREGOR_REDIS_URL": redis_server, "GREGOR_TOKEN_SECRET": SECRET, **ports})
    tasks = [asyncio.create_task(module.serve(LiveSettings(settings))) for module in (ingest, gateway)]
    yield settings
    for stop in stops * 2:  # twice: the second signal ends the time before the drain
        stop()
    await asyncio.gather(*tasks)


@asynccontextmanager
async def clients(settings: Settings, uid: str) -> AsyncIterator[tuple[AsyncProducer, Device]]:
    """Connect a backend and a device."""
    store = await open_store(settings.redis_url, settings.limits, settings.namespace, token_life_us=1)
    _, key = await store.access.create_key(("ingest",), None, None, now_us=1)
    await store.close()
    token = mint_device_token(SECRET, uid, "phone")
    async with (
        AsyncProducer(f"http://127.0.0.1:{settings.ingest_port}", key) as backend,
        Device(f"ws://127.0.0.1:{settings.gateway_port}", token) as device,
    ):
        await device.wait_until_synced()
        yield backend, device


def test_path_of_a_creation_is_short() -> None:
    path = documented_path()

    assert len(path) >= 20
    assert len({file for file, _ in path}) <= MAX_FILES
    assert [file for file, _ in path if not (ROOT / file).is_file()] == []


async def test_path_of_a_creation_is_documented_in_order(settings: Settings) -> None:
    """Each documented function is called while a creation reaches a device, in the documented order."""
    async with clients(settings, "alice") as (backend, device):
        await backend.create("alice", "mail", {"n": 0}, item_id="first")
        await wait_until(lambda: "first" in device.items, "the first item, which fills the caches")
        recordings = []
        for number in range(10):
            item_id = f"recorded-{number}"
            with recorded_calls() as calls:
                await backend.create("alice", "mail", {"n": number}, item_id=item_id)
                await wait_until(lambda item_id=item_id: item_id in device.items, item_id)
            recordings.append(calls)

    steps = [step for step in documented_path() if step[1]]
    assert [set(steps) - set(calls) for calls in recordings] == [set()] * len(recordings), "not called"
    # Redis answers the commit and publishes it at once. On a busy machine, the publication is sometimes read first.
    assert any(is_in_order(steps, calls) for calls in recordings), "not in this order"
    # Only the files that all recordings have: periodic work of the services may fall into some of them, and above all
    # into long ones.
    shortest = sorted(recordings, key=len)[:5]
    assert len(set.intersection(*map(files_of_services, shortest))) <= MAX_FILES_CALLED


def is_in_order(steps: list[Call], calls: list[Call]) -> bool:
    called = iter(calls)
    return all(step in called for step in steps)


def files_of_services(calls: list[Call]) -> set[str]:
    return {file for file, _ in calls if not file.startswith("shared/gregor/client/")}
