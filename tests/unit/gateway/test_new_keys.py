"""Tokens of a new key of the key set are refused for seconds at most, and never for good."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from gregor.store.contract.access import Ticket
from tests.support.wait import wait_until
from tests.support.wire_device import WireDevice
from tests.unit.gateway.conftest import Gateway, open_gateway, settle
from tests.unit.gateway.test_removed_keys import key_set, of_key_set

CLOSE = {"code": 4006, "reason": "unavailable"}


@pytest.fixture
async def gateway(tmp_path: Path) -> AsyncIterator[Gateway]:
    """A gateway whose next load of the key set a stranger has used up, just before a key was added."""
    file = tmp_path / "keys.json"
    file.write_bytes(key_set("old"))
    async with open_gateway(token_jwks=str(file)) as gateway:
        await refuse(gateway, of_key_set(gateway, "stranger"))
        file.write_bytes(key_set("old", "new"))
        yield gateway


async def refuse(gateway: Gateway, token: str) -> tuple[int, str]:
    async with WireDevice(f"ws://127.0.0.1:{gateway.port}", token, {}) as device:
        return await device.closed()


async def test_websocket_of_a_new_key_may_reconnect(gateway: Gateway) -> None:
    token = of_key_set(gateway, "new")
    assert await refuse(gateway, token) == (4006, "unavailable")

    gateway.pass_time(10)

    async with WireDevice(f"ws://127.0.0.1:{gateway.port}", token, {}) as device:
        await device.synced()


@pytest.mark.parametrize("path", ["/v1/stream", "/v1/poll?wait=0"])
async def test_stream_or_poll_of_a_new_key_may_be_repeated(gateway: Gateway, streams: str, path: str) -> None:
    headers = {"Authorization": f"Bearer {of_key_set(gateway, 'new')}"}
    async with httpx.AsyncClient(base_url=streams, headers=headers, trust_env=False) as client:
        refused = await client.get(path)
        assert (refused.status_code, refused.json()["code"]) == (401, "unauthorised")
        assert (refused.json()["close"], refused.headers["retry-after"]) == (CLOSE, "10")

        gateway.pass_time(10)

        assert (await client.get("/v1/poll?wait=0")).status_code == 200


async def test_ticket_of_a_new_key_may_be_repeated(gateway: Gateway, streams: str, tmp_path: Path) -> None:
    """Ingest knows the key, and this gateway does not yet."""
    async with open_gateway(token_jwks=str(tmp_path / "keys.json")) as other:
        mark = (await other.context.authenticator.verify(of_key_set(other, "new"))).key_mark
    now_s = gateway.clock.now_us() / 1e6
    claims = {"exp": now_s + 3_600, "iat": now_s, "cats": None, "systems": None, "token_key": mark}
    made = Ticket("alice", "phone", False, None, None, claims)
    async with httpx.AsyncClient(base_url=streams, trust_env=False) as client:
        text = await gateway.store.access.create_ticket(made, gateway.clock.now_us(), 30_000_000)
        for status in (401, 200):
            answer = await client.get("/v1/poll", params={"ticket": text, "wait": 0})
            assert (answer.status_code, answer.json().get("close")) == (status, CLOSE if status == 401 else None)
            gateway.pass_time(10)
            await settle()


async def test_token_of_an_unknown_key_is_final_in_the_end(gateway: Gateway) -> None:
    """A client that waits learns at last that the key does not exist."""
    token = of_key_set(gateway, "stranger")
    codes = []

    async def is_final() -> bool:
        gateway.pass_time(10)
        codes.append((await refuse(gateway, token))[0])
        return codes[-1] == 4501

    await wait_until(is_final, "a final close")
    assert codes == [4006, 4006, 4501]
