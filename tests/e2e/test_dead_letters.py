"""What a provider refuses for good is found, sent again once that is mended, or put away: every process real."""

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
class House:
    """A Gregor that leads to fake providers in this process, and a backend that hears what becomes of deliveries."""

    cluster: Cluster
    api: httpx.AsyncClient
    fakes: Fakes
    backend: FakeWebhookReceiver

    async def push(self, user: str, *items: str, refused: bool = True) -> None:
        """Items of which the phone of a user is told, and what its provider says to that."""
        token = f"{user}-phone".encode().hex()
        await self.api.put(f"/v1/users/{user}/devices/phone", json={"push": {"provider": "apns", "token": token}})
        self.fakes.apns.script(token, *[REFUSED] * (len(items) if refused else 0))
        body = {"create": {each: {"category": "user"} for each in items}}
        await self.api.post(f"/v1/users/{user}/messages", json={"system": "gregor", "body": body})

    async def dead(self, count: int, **filters: Any) -> list[dict[str, Any]]:
        """The dead letters, once there are so many."""

        async def entries() -> list[dict[str, Any]]:
            found: list[dict[str, Any]] = (await self.api.get("/v1/deliveries/dead", params=filters)).json()["entries"]
            return found

        async def is_so() -> bool:
            return len(await entries()) == count

        await wait_until(is_so, f"{count} dead letters", LONG_S)
        return await entries()

    async def delivered(self, user: str, count: int) -> None:
        """So many pushes have reached a user's phone."""
        await wait_until(
            lambda: len(self.ids(user)) >= count, f"{count} pushes to {user}, not {self.ids(user)}", LONG_S
        )

    def ids(self, user: str) -> list[str]:
        """Of what reached a user's phone."""
        told = [each.payload["gregor"] for each in self.fakes.apns.delivered()]
        return [each["id"] for each in told if each["uid"] == user]

    async def ledger(self, user: str) -> list[tuple[str, list[str]]]:
        """Of each push to a user its state, and what the provider said."""
        entries = (await self.api.get(f"/v1/users/{user}/deliveries")).json()["entries"]
        pushes = [each for each in entries if each["channel"] == "apns"]
        return [(each["state"], [attempt["status"] for attempt in each["attempts"]]) for each in pushes]

    def told(self) -> list[tuple[str, str]]:
        """What the backend heard: type and item, in order."""
        return [(event["type"], event["data"]["id"]) for event in self.backend.events.values()]


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
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
        yield House(cluster, api, fakes, backend)


def dead(house: House, *words: str) -> Any:
    """What `gregor dead` says to machines."""
    return json.loads(
        house.cluster.gregor(
            "dead", *words, "--url", house.cluster.ingest_urls[0], "--json", "--key", house.cluster.key
        )
    )


async def test_dead_letters_are_listed_replayed_and_purged(house: House) -> None:
    await house.push("ann", "a")
    [letter] = await house.dead(1)
    assert (letter["uid"], letter["item"], letter["state"]) == ("ann", "a", "dead")
    assert [(each["status"], each["detail"]) for each in letter["attempts"]] == [("400", "PayloadEmpty")]
    assert abs(letter["at"] - time.time()) < LONG_S
    assert dead(house, "list") == {"entries": [letter]}
    await wait_until(lambda: house.told() == [("delivery.dead", "a")], "the backend hears of it", LONG_S)

    assert dead(house, "replay", letter["id"]) == {"replayed": [letter["id"]]}

    await house.delivered("ann", 1)
    await house.dead(0)
    await wait_until(lambda: house.told()[1:] == [("delivery.sent", "a")], "the backend hears of that, too", LONG_S)
    assert await house.ledger("ann") == [("sent", ["400", "200"])]

    await house.push("bob", "b", "c")
    await house.push("cleo", "d")
    letters = await house.dead(3)
    await house.api.post("/v1/users/cleo/messages", json={"system": "gregor", "body": {"dismiss": {"ids": ["d"]}}})
    replayed = dead(house, "replay", "--channel", "apns")["replayed"]
    assert sorted(replayed) == sorted(each["id"] for each in letters)
    await house.delivered("bob", 2)
    await house.dead(0)

    async def is_cancelled() -> bool:
        return await house.ledger("cleo") == [("cancelled", ["400"])]

    await wait_until(is_cancelled, "what was dismissed meanwhile is not told", LONG_S)
    await house.push("dora", "e", "f")
    await house.dead(2, channel="apns")
    assert dead(house, "purge", "--channel", "fcm") == {"purged": 0}
    assert dead(house, "purge", "--channel", "apns", "--before", "-1h") == {"purged": 0}
    assert dead(house, "purge", "--channel", "apns") == {"purged": 2}
    await house.dead(0)
    assert await house.ledger("dora") == [("dead", ["400"])] * 2
    assert sorted(house.ids("bob")) == ["b", "c"] and house.ids("cleo") == house.ids("dora") == []


async def test_replay_survives_killed_processes(house: House) -> None:
    """Ingest dies right after it said 202; who hands it over and who sends it were dead before, and die again."""
    await house.push("eve", "a")
    [letter] = await house.dead(1)
    [ingest], [scheduler], [delivery] = house.cluster.ingests, house.cluster.schedulers, house.cluster.deliveries
    for service in (scheduler, delivery):
        service.kill()

    answer = await house.api.post(f"/v1/deliveries/dead/{letter['id']}/replay")
    ingest.kill()
    scheduler.start()
    scheduler.wait_ready()
    scheduler.kill()
    for service in (ingest, scheduler, delivery):
        service.start()
        service.wait_ready()

    assert answer.status_code == 202
    await house.delivered("eve", 1)
    await house.push("eve", "b", refused=False)
    await house.delivered("eve", 2)
    assert house.ids("eve") == ["a", "b"]

    async def are_settled() -> bool:
        return [state for state, _ in await house.ledger("eve")] == ["sent", "sent"]

    await wait_until(are_settled, "the ledger knows of both", LONG_S)
