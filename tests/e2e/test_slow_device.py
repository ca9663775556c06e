"""A slow consumer costs bounded memory, and delays no other device."""

import asyncio
import json
import socket
from collections.abc import Callable
from urllib.parse import urlsplit

import httpx
from websockets.asyncio.client import connect

from gregor.client.mirror import Mirror
from tests.support.cluster import Cluster
from tests.support.wire_device import WireDevice

MESSAGES = 400
BODY = "x" * 15_000


def narrow_socket(url: str) -> socket.socket:
    """Return a socket with a small kernel buffer for a program that does not read."""
    narrow = socket.socket()
    narrow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8_192)
    place = urlsplit(url)
    narrow.connect((place.hostname, place.port))
    narrow.setblocking(False)
    return narrow


async def overflows(cluster: Cluster) -> float:
    async with httpx.AsyncClient(trust_env=False) as client:
        text = (await client.get(cluster.gateways[0].probes[0].replace("readyz", "metrics"))).text
    return sum(float(line.split()[-1]) for line in text.splitlines() if line.startswith("gregor_queue_overflows_total"))


async def test_slow_consumer_gets_one_sync_and_delays_none(
    cluster: Cluster, api: httpx.AsyncClient, uid: str, device_of: Callable[..., WireDevice]
) -> None:
    url = cluster.gateway_urls[0]
    headers = {"Authorization": f"Bearer {cluster.token(uid, 'slow')}"}
    before = await overflows(cluster)
    async with (
        device_of("quick") as quick,
        connect(
            f"{url}/v1/connect",
            sock=narrow_socket(url),
            subprotocols=["gregor.v1"],  # type: ignore[list-item]
            additional_headers=headers,
            ping_interval=None,
            max_queue=1,
            max_size=None,
            proxy=None,
        ) as slow,
    ):
        await quick.synced()
        await slow.send('{"hello":{}}')
        frames = [json.loads(await slow.recv()) for _ in range(2)]
        longest_s = 0.0
        for number in range(MESSAGES):
            body = {
                "create": {f"i{number}": {"category": "mail", "body": BODY}},
                "dismiss": {"ids": [f"i{number - 1}"]},
            }
            started_s = asyncio.get_running_loop().time()
            answer = await api.post(f"/v1/users/{uid}/messages", json={"system": "gregor", "body": body})
            assert answer.status_code == 200
            await quick.until(lambda _, wanted=f"i{number}": wanted in quick.mirror.items, "the quick one has it")
            longest_s = max(longest_s, asyncio.get_running_loop().time() - started_s)

        mirror = Mirror()
        for frame in frames:
            mirror.apply(frame)
        async with asyncio.timeout(20):
            while mirror.digest != quick.mirror.digest:
                frame = json.loads(await slow.recv())
                frames.append(frame)
                mirror.apply(frame)

    resyncs = [frame for frame in frames[2:] if "sync" in frame]
    live = [frame["seq"] for frame in frames if "seq" in frame and "sync" not in frame]
    assert longest_s < 2
    assert len(resyncs) == 1
    assert await overflows(cluster) == before + 1
    assert live == sorted(set(live))
    assert sum(len(json.dumps(frame)) for frame in frames) < MESSAGES * len(BODY) * 0.75
