"""Two gateways, two ingests, many writers, one user: no write waits for a lock, and all devices converge."""

import asyncio
import random
from contextlib import AsyncExitStack
from typing import Any

from gregor.client import digest_of
from gregor.client.messages import creation, dismissal, gregor
from tests.e2e.traffic import CATEGORIES, Watcher, producers_of
from tests.support.cluster import Cluster


async def test_devices_converge_after_concurrent_writes(cluster: Cluster, uid: str) -> None:
    ids = [f"i{number}" for number in range(60)]
    names = ["phone", "laptop", "tablet", "watch"]

    def anything(dice: random.Random) -> dict[str, Any]:
        kind = dice.randrange(6)
        if kind < 3:
            id_ = dice.choice(ids)
            place = ids.index(id_)
            category = CATEGORIES[place % 3]
            return creation(id_, category, {"n": place}, for_device=[None, None, "*", "phone"][place % 4])
        if kind < 5:
            return dismissal(dice.sample(ids, 3))
        return dismissal(category=dice.choice(CATEGORIES), skip=dice.sample(ids, 20))

    async with AsyncExitStack() as stack:
        producers = [await stack.enter_async_context(producer) for producer in producers_of(cluster)]
        watchers = []
        for number, name in enumerate(names):
            urls = cluster.gateway_urls[number % 2 :] + cluster.gateway_urls[: number % 2]
            watcher = Watcher(urls, cluster.token(uid, name))
            watchers.append(await stack.enter_async_context(watcher))

        async def backend(number: int) -> None:
            dice = random.Random(number)
            for _ in range(40):
                await producers[number % 2].send(uid, anything(dice))

        async def device(number: int) -> None:
            dice = random.Random(100 + number)
            for _ in range(20):
                message = anything(dice)
                for made in message["body"].get("create", {}).values():
                    if made.get("for_device") == "phone":
                        made["for_device"] = names[number]
                await watchers[number].device.send(message)

        await asyncio.gather(*map(backend, range(8)), *map(device, range(len(names))))

        for name, watcher in zip(names, watchers, strict=True):
            await watcher.converges(producers[0], uid, name)
            assert watcher.device.pending == 0
            assert max(watcher.created.values(), default=1) == 1 or name != "phone"
        whole = await producers[0].state(uid)
        assert whole["digest"] == digest_of(whole["items"]) == (await producers[1].state(uid))["digest"]


async def test_100_writers_of_one_user_lose_nothing(cluster: Cluster, uid: str) -> None:
    async with AsyncExitStack() as stack:
        producers = [await stack.enter_async_context(producer) for producer in producers_of(cluster)]
        watcher = await stack.enter_async_context(Watcher(cluster.gateway_urls, cluster.token(uid, "phone")))

        receipts = await asyncio.gather(
            *(producers[number % 2].send(uid, creation(f"i{number}", "mail")) for number in range(100))
        )

        assert sorted(receipt.seq or 0 for receipt in receipts) == list(range(1, 101))
        await watcher.converges(producers[0], uid, "phone")
        assert watcher.created == {f"i{number}": 1 for number in range(100)}


async def test_batch_for_many_users_has_a_result_for_each(cluster: Cluster, uid: str) -> None:
    uids = [f"{uid}.{number}" for number in range(50)]
    async with AsyncExitStack() as stack:
        producers = [await stack.enter_async_context(producer) for producer in producers_of(cluster)]

        entries = await producers[0].send_many(
            [
                {"uids": uids, **creation("a", "mail")},
                {"uid": uids[0], **gregor()},
                {"uid": uids[0], **creation("b", "mail")},
            ]
        )

        assert [entry["uid"] for entry in entries] == [*uids, uids[0], uids[0]]
        assert [entry["line"] for entry in entries] == [0] * 50 + [1, 2]
        assert ["problem" in entry for entry in entries] == [False] * 50 + [True, False]
        assert sorted((await producers[1].state(uids[0]))["items"]) == ["a", "b"]
        assert sorted((await producers[1].state(uids[49]))["items"]) == ["a"]
