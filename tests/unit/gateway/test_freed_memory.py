"""Refused requests and ended streams leave nothing in memory, also without a garbage collection."""

from __future__ import annotations

import gc

import httpx
import pytest

from gregor.core.errors import Problem
from gregor.core.rate_limit import request_buckets
from gregor.web.request import CONFIRM_AFTER_S
from gregor_gateway.transports.sse import SseTransport
from gregor_gateway.transports.stream_auth import RequestToken
from tests.support.kept_errors import garbage_collection_off, kept_errors
from tests.support.stream_device import StreamDevice
from tests.support.wait import wait_until
from tests.unit.gateway.conftest import Gateway, UnavailableStore


@pytest.mark.parametrize(
    ("target", "status"),
    [("/v1/frames?session=x", 404), ("/v1/nothing", 404), ("/v1/stream", 405), ("/v1/frames", 422)],
)
async def test_refused_request_leaves_no_error(api: httpx.AsyncClient, target: str, status: int) -> None:
    """The traceback of an error has the body of its request, 13 MiB if decoded."""
    with garbage_collection_off():
        before = kept_errors()
        for _ in range(3):
            assert (await api.post(target, json={"ack": 1})).status_code == status

        await wait_until(lambda: kept_errors() <= before, "the end of the errors")


async def test_request_over_the_rate_leaves_no_error(gateway: Gateway, api: httpx.AsyncClient) -> None:
    buckets = request_buckets("alice", "phone", gateway.context.limits)
    most = min(bucket.burst for bucket in buckets)
    await gateway.store.access.take_all("alice", buckets, most, gateway.clock.now_us())
    with garbage_collection_off():
        before = kept_errors()
        for _ in range(3):
            assert (await api.post("/v1/frames?session=x", json={"ack": 1})).status_code == 429

        await wait_until(lambda: kept_errors() <= before, "the end of the errors")


async def test_outage_of_the_store_leaves_no_error(gateway: Gateway, api: httpx.AsyncClient) -> None:
    gateway.store._access = UnavailableStore()  # type: ignore[assignment]
    with garbage_collection_off():
        before = kept_errors()
        for _ in range(3):
            assert (await api.post("/v1/frames?session=x", json={"ack": 1})).status_code == 503

        await wait_until(lambda: kept_errors() <= before, "the end of the errors")


async def test_revoked_token_of_posted_frames_leaves_no_error(gateway: Gateway) -> None:
    """A request remembers the refusal of its token, without the traceback."""
    token = RequestToken(gateway.token(), gateway.context)
    await token.authenticate()
    await gateway.store.devices.revoke("alice", None, gateway.clock.now_us() + 1, gateway.clock.now_us())
    gateway.clock.advance(CONFIRM_AFTER_S)
    with garbage_collection_off():
        before = kept_errors()
        for _ in range(3):
            with pytest.raises(Problem, match="unauthorised"):
                await token.confirm()
        del token

        assert kept_errors() == before


async def test_ended_stream_is_freed(gateway: Gateway, streams: str) -> None:
    """Up to 1 MiB may wait in its send queue."""
    with garbage_collection_off():
        async with StreamDevice(streams, headers={"Authorization": f"Bearer {gateway.token()}"}) as stream:
            await stream.until('"sync"')

        await wait_until(lambda: not any(isinstance(each, SseTransport) for each in gc.get_objects()), "no stream")
