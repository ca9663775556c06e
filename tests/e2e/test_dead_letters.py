"""Dead letters: listed, replayed after a fix, and purged, with real processes."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from gregor.dev.fakes.__main__ import Fakes
from gregor.dev.fakes.apns_actions import ApnsAction
from gregor.dev.fakes.webhook import FakeWebhookReceiver
from tests.support.cluster import Cluster
from tests.support.wait import wait_until

LONG_S = 40
REFUSED = ApnsAction(400, "PayloadEmpty")


@dataclass(frozen=True, slots=True)
class DeadLetterHarness:
    """A cluster with fake providers in this process, and a receiver of delivery events."""

    cluster: Cluster
    api: httpx.AsyncClient
    fakes: Fakes
    backend: FakeWebhookReceiver

    async def push(self, user: str, *items: str, refused: bool = True) -> None:
        """Create items with a push to the user's phone, and set the provider's response."""
        token = f"{user}-phone".encode().hex()
        await self.api.put(f"/v1/users/{user}/devices/phone", json={"push": {"provider": "apns", "token": token}})
        self.fakes.apns.script(token, *[REFUSED] * (len(items) if refused else 0))
        body = {"create": {each: {"category": "user"} for each in items}}
        await self.api.post(f"/v1/users/{user}/messages", json={"system": "gregor", "body": body})

    async def dead(self, count: int, **filters: Any) -> list[dict[str, Any]]:
        """Wait for a number of dead letters, and return them."""

        async def entries() -> list[dict[str, Any]]:
            found: list[dict[str, Any]] = (await self.api.get("/v1/deliveries/dead", params=filters)).json()["entries"]
            return found

        async def is_so() -> bool:
            return len(await entries()) == count

        await wait_until(is_so, f"{count} dead letters", LONG_S)
        return await entries()

    async def delivered(self, user: str, count: int) -> None:
        """Wait until a number of pushes has reached a user's phone."""
        await wait_until(
            lambda: len(self.ids(user)) >= count, f"{count} pushes to {user}, not {self.ids(user)}", LONG_S
        )

    def ids(self, user: str) -> list[str]:
        """Return the item ids of the pushes that reached a user's phone."""
        told = [each.payload["gregor"] for each in self.fakes.apns.delivered()]
        return [each["id"] for each in told if each["uid"] == user]

    async def ledger(self, user: str) -> list[tuple[str, list[str]]]:
        """Return state and provider response of each push to a user."""
        entries = (await self.api.get(f"/v1/users/{user}/deliveries")).json()["entries"]
        pushes = [each for each in entries if each["channel"] == "apns"]
        return [(each["state"], [attempt["status"] for attempt in each["attempts"]]) for each in pushes]

    def received_events(self) -> list[tuple[str, str]]:
        """Return type and item of the received events, in order."""
        return [(event["type"], event["data"]["id"]) for event in self.backend.events.values()]


@pytest.fixture
async def harness(tmp_path: Path) -> AsyncIterator[DeadLetterHarness]:
    async with AsyncExitStack() as stack:
        (tmp_path / "fakes").mkdir()
        fakes = await Fakes.start(tmp_path / "fakes")
        stack.push_async_callback(fakes.close)
        entries = tmp_path / "categories.toml"
        entries.write_text('["user"]\ntitle = "{{ id }} joined"\npush = { after = "0s" }\n')
        settings = {name.removeprefix("GREGOR_"): value for name, value in fakes.settings().items() if "APNS" in name}
        cluster = stack.enter_context(
            Cluster(
                tmp_path / "c",
                ingests=1,
                gateways=0,
                schedulers=1,
                deliveries=1,
                categories=str(entries),
                webhook_loopback="true",
                **settings,
            )
        )
        api = await stack.enter_async_context(cluster.api())
        backend = FakeWebhookReceiver("", lambda: time.time_ns() // 1_000)
        await backend.start()
        stack.push_async_callback(backend.close)
        wish = {"url": backend.url, "events": ["delivery.dead", "delivery.sent"]}
        backend.secret = (await api.post("/v1/webhooks", json=wish)).json()["secret"]
        yield DeadLetterHarness(cluster, api, fakes, backend)


def dead(harness: DeadLetterHarness, *words: str) -> Any:
    """Return the JSON output of `gregor dead`."""
    return json.loads(
        harness.cluster.gregor(
            "dead", *words, "--url", harness.cluster.ingest_urls[0], "--json", "--key", harness.cluster.key
        )
    )


async def test_dead_letters_are_listed_replayed_and_purged(harness: DeadLetterHarness) -> None:
    await harness.push("ann", "a")
    [letter] = await harness.dead(1)
    assert (letter["uid"], letter["item"], letter["state"]) == ("ann", "a", "dead")
    assert [(each["status"], each["detail"]) for each in letter["attempts"]] == [("400", "PayloadEmpty")]
    assert abs(letter["at"] - time.time()) < LONG_S
    assert dead(harness, "list") == {"entries": [letter]}
    await wait_until(
        lambda: harness.received_events() == [("delivery.dead", "a")], "the event reached the backend", LONG_S
    )

    assert dead(harness, "replay", letter["id"]) == {"replayed": [letter["id"]]}

    await harness.delivered("ann", 1)
    await harness.dead(0)
    await wait_until(
        lambda: harness.received_events()[1:] == [("delivery.sent", "a")],
        "the second event reached the backend",
        LONG_S,
    )
    assert await harness.ledger("ann") == [("sent", ["400", "200"])]

    await harness.push("bob", "b", "c")
    await harness.push("cleo", "d")
    letters = await harness.dead(3)
    await harness.api.post("/v1/users/cleo/messages", json={"system": "gregor", "body": {"dismiss": {"ids": ["d"]}}})
    replayed = dead(harness, "replay", "--channel", "apns")["replayed"]
    assert sorted(replayed) == sorted(each["id"] for each in letters)
    await harness.delivered("bob", 2)
    await harness.dead(0)

    async def is_cancelled() -> bool:
        return await harness.ledger("cleo") == [("cancelled", ["400"])]

    await wait_until(is_cancelled, "what was dismissed meanwhile is not told", LONG_S)
    await harness.push("dora", "e", "f")
    await harness.dead(2, channel="apns")
    assert dead(harness, "purge", "--channel", "fcm") == {"purged": 0}
    assert dead(harness, "purge", "--channel", "apns", "--before", "-1h") == {"purged": 0}
    assert dead(harness, "purge", "--channel", "apns") == {"purged": 2}
    await harness.dead(0)
    assert await harness.ledger("dora") == [("dead", ["400"])] * 2
    assert sorted(harness.ids("bob")) == ["b", "c"] and harness.ids("cleo") == harness.ids("dora") == []


async def test_replay_survives_killed_processes(harness: DeadLetterHarness) -> None:
    """Ingest is killed after its response 202; scheduler and delivery are killed before and again afterwards."""
    await harness.push("eve", "a")
    [letter] = await harness.dead(1)
    [ingest], [scheduler], [delivery] = harness.cluster.ingests, harness.cluster.schedulers, harness.cluster.deliveries
    for service in (scheduler, delivery):
        service.kill()

    answer = await harness.api.post(f"/v1/deliveries/dead/{letter['id']}/replay")
    ingest.kill()
    scheduler.start()
    scheduler.wait_ready()
    scheduler.kill()
    for service in (ingest, scheduler, delivery):
        service.start()
        service.wait_ready()

    assert answer.status_code == 202
    await harness.delivered("eve", 1)
    await harness.push("eve", "b", refused=False)
    await harness.delivered("eve", 2)
    assert harness.ids("eve") == ["a", "b"]

    async def are_settled() -> bool:
        return [state for state, _ in await harness.ledger("eve")] == ["sent", "sent"]

    await wait_until(are_settled, "the ledger knows of both", LONG_S)
