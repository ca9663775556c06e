"""The queue Redis is down or hangs while the state Redis works: only notifications are delayed (time.md)."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from gregor.dev.embedded_redis import find_server
from tests.support.cluster import Cluster
from tests.support.machine import Waiting
from tests.support.servers import Server
from tests.support.wait import wait_until
from tests.support.wire_device import WireDevice

CATEGORIES = """
["told"]
title = "A word"
push = { after = "0s" }
["fold"]
title = "A thing"
aggregate = { window = "1s", at_least = 2 }
"""
STREAM = "gregor:deliveries:fcm"
SCHEDULERS = 2
LATE_S = 1 + 1.5 * SCHEDULERS
"""Half a second until a missing tick is noticed, half a second between two rounds, and 1.5 s in each scheduler for a
user whose notifications are being enqueued at that moment (docs/explanation/time.md).
"""


@pytest.fixture
def queue(tmp_path: Path) -> Iterator[Server]:
    (tmp_path / "queue").mkdir()
    server = Server(str(find_server()), tmp_path / "queue").start()
    yield server
    server.kill()


def of(category: str, *ids: str, **times: object) -> dict[str, object]:
    return {"system": "gregor", "body": {"create": {id_: {"category": category, "times": times} for id_ in ids}}}


@pytest.mark.parametrize("trouble", ["down", "hanging"])
async def test_due_work_continues_while_the_queue_is(tmp_path: Path, queue: Server, trouble: str) -> None:
    types = tmp_path / "categories.toml"
    types.write_text(CATEGORIES)
    with Cluster(
        tmp_path / "c", gateways=1, ingests=1, schedulers=SCHEDULERS, queue_url=queue.url, categories=types
    ) as cluster:
        async with (
            cluster.api() as api,
            WireDevice(cluster.gateway_urls[0], cluster.token("alice", "desk"), {}) as desk,
        ):
            await desk.synced()
            waiting = Waiting(cluster.pids)
            push = {"provider": "fcm", "token": "t", "topic": "x", "sandbox": False}
            await api.put("/v1/users/alice/devices/phone", json={"platform": "android", "push": push})
            if trouble == "down":
                queue.kill()
            else:
                queue.suspend()
            await post(api, of("told", *(f"t{n}" for n in range(100))))
            if trouble == "down":
                # A scheduler that starts during the outage executes due work, too.
                cluster.schedulers[0].kill()
                cluster.schedulers[0].start()
            await post(api, of("plain", "r", remind_at=[f"+{n}" for n in range(1, 9)], expires="+9"))
            await post(api, of("fold", "f", "g"))
            late_s = await lateness(desk, 8)
            await wait_until(lambda: "expired" in reasons(desk), "the expiry")

            lost_s = waiting.lost_s()
            assert max(late_s) < LATE_S + lost_s and sorted(late_s)[len(late_s) // 2] < 1 + lost_s, late_s
            assert reasons(desk) == ["aggregated", "expired"]
            # A scheduler stops during the outage as usual.
            cluster.schedulers[1].signal(signal.SIGTERM)
            assert cluster.schedulers[1].wait() == 0
            if trouble == "down":
                queue.start()
            else:
                queue.resume()
            await wait_until(lambda: int(queue.say("XLEN", STREAM)[1:]) >= 100, "all pushes are enqueued", 40)
            cluster.schedulers[0].wait_ready()


async def post(api: httpx.AsyncClient, message: dict[str, object]) -> None:
    answer = await api.post("/v1/users/alice/messages", json=message)
    assert answer.status_code == 200, answer.text


def reasons(device: WireDevice) -> list[str]:
    """Return the reasons of removals, in order."""
    return [frame["body"]["dismiss"]["reason"] for frame in device.live if "dismiss" in frame["body"]]


async def lateness(device: WireDevice, count: int) -> list[float]:
    """Wait for a number of reminders and return how late each was, in seconds."""
    late_s: list[float] = []

    def is_heard() -> bool:
        reminded = [at for frame in device.live for at in frame["body"].get("remind", {}).values()]
        late_s.extend(time.time() - at for at in reminded[len(late_s) :])
        return len(late_s) == count

    await wait_until(is_heard, "every reminder", 30)
    return late_s
