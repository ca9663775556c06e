"""One failover under load: what was acknowledged, what of it was lost, and what a blind device shows."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import httpx

from tests.support.blind_copy import BlindCopy
from tests.support.cluster import Cluster
from tests.support.sentinel_group import SentinelGroup
from tests.support.wait import wait_until
from tests.support.wire_device import WireDevice

Failure = Literal["planned", "killed", "hung"]
INTERVAL_S = 0.05
UID = "alice"


@dataclass(frozen=True, slots=True)
class Sent:
    """One message: the item it creates, when it was sent and answered, and the answer."""

    item: str
    sent_s: float
    answered_s: float
    status: int
    answer: dict[str, Any]


@dataclass
class FailoverRun:
    """The result of a run. Times are seconds after the failure.

    Attributes:
        lost: Messages that were answered with 200 and whose items the store does not have.
        outage_s: The longest time between two answers with 200.
        missing, extra: The differences of a blind device's copy from the store, at the end.
    """

    sent: list[Sent] = field(default_factory=list)
    failed_at_s: float = 0.0
    lost: list[Sent] = field(default_factory=list)
    missing: set[str] = field(default_factory=set)
    extra: set[str] = field(default_factory=set)

    @property
    def accepted(self) -> list[Sent]:
        """The messages that were answered with 200."""
        return [each for each in self.sent if each.status == 200]

    @property
    def lost_window_s(self) -> float:
        """Seconds between the first and the last lost message."""
        return self.lost[-1].sent_s - self.lost[0].sent_s if self.lost else 0.0

    @property
    def outage_s(self) -> float:
        times = sorted(each.answered_s for each in self.accepted)
        return max(later - earlier for earlier, later in pairwise(times))

    @property
    def refused(self) -> int:
        """How many messages were answered with another status than 200, or not at all."""
        return len(self.sent) - len(self.accepted)

    def __str__(self) -> str:
        return (
            f"accepted {len(self.accepted)}, lost {len(self.lost)} within {self.lost_window_s:.2f} s, "
            f"refused {self.refused}, longest time without an answer {self.outage_s:.2f} s, "
            f"blind device: missing {len(self.missing)}, extra {len(self.extra)}"
        )


async def run_failover(
    group: SentinelGroup,
    directory: Path,
    failure: Failure,
    *,
    before_s: float = 2.0,
    after_s: float = 14.0,
    headers: Mapping[str, str] = {},
    **settings: Any,
) -> FailoverRun:
    """Send messages, cause the failure after ``before_s``, and compare when ``after_s`` more have passed.

    Sentinel demotes an old primary about ten seconds after a planned failover. A hung primary wakes up after two thirds
    of ``after_s``. ``headers``: of each message; ``settings``: of the services.
    """
    run = FailoverRun()
    with Cluster(directory, gateways=1, ingests=1, redis_url=group.url, **settings) as cluster:
        async with (
            cluster.api() as api,
            WireDevice(cluster.gateway_urls[0], cluster.token(UID, "phone"), {}) as device,
        ):
            load = asyncio.create_task(_send(api, run, headers))
            await _until(time.monotonic() + before_s)
            run.failed_at_s = time.monotonic()
            await _fail(group, failure, run.failed_at_s + after_s * 2 / 3)
            await _until(run.failed_at_s + after_s)
            load.cancel()
            await asyncio.gather(load, return_exceptions=True)
            await _compare(api, device, run)
    return run


async def _until(moment_s: float) -> None:
    await wait_until(lambda: time.monotonic() >= moment_s, "the time has come", moment_s - time.monotonic() + 5, 0.05)


async def _fail(group: SentinelGroup, failure: Failure, wakes_at_s: float) -> None:
    match failure:
        case "planned":
            await asyncio.to_thread(group.fail_over)
        case "killed":
            group.primary.kill()
        case "hung":
            primary = group.primary
            primary.suspend()
            await _until(wakes_at_s)
            primary.resume()


async def _send(api: httpx.AsyncClient, run: FailoverRun, headers: Mapping[str, str]) -> None:
    """Create an item every ``INTERVAL_S``, whatever the answers are."""
    posts: set[asyncio.Task[None]] = set()
    begun_s, number = time.monotonic(), 0
    try:
        while True:
            number += 1
            posts.add(asyncio.create_task(_post(api, run, f"n{number}", headers)))
            await _until(begun_s + number * INTERVAL_S)
    finally:
        await asyncio.gather(*posts)


async def _post(api: httpx.AsyncClient, run: FailoverRun, item: str, headers: Mapping[str, str]) -> None:
    sent_s = time.monotonic()
    body = {"system": "gregor", "body": {"create": {item: {"category": "mail", "body": 1}}}}
    try:
        answer = await api.post(f"/v1/users/{UID}/messages", json=body, headers=dict(headers))
    except httpx.HTTPError:
        run.sent.append(Sent(item, sent_s, time.monotonic(), 0, {}))
        return
    run.sent.append(Sent(item, sent_s, time.monotonic(), answer.status_code, answer.json()))


async def _compare(api: httpx.AsyncClient, device: WireDevice, run: FailoverRun) -> None:
    """Compare the store with the answers, and the device with the store."""
    stored = set((await api.get(f"/v1/users/{UID}/state")).json()["items"])
    run.lost = sorted((each for each in run.accepted if each.item not in stored), key=lambda each: each.sent_s)

    def difference() -> set[str]:
        copy = BlindCopy()
        copy.apply(device.frames)
        run.missing, run.extra = stored - set(copy.items), set(copy.items) - stored
        return run.missing | run.extra

    # A comparison of the gateway may still be due.
    try:
        await wait_until(lambda: not difference(), "the device is equal", 40)
    except AssertionError:
        difference()
