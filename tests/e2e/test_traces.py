"""One trace from the request to the frame, and from the scheduler to the provider, at a fake collector."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from gregor.tracing import names
from tests.support.cluster import Cluster
from tests.support.fake_collector import CollectedSpan, FakeCollector
from tests.support.fake_providers import FakeProviders, running
from tests.support.wait import wait_until
from tests.support.wire_device import WireDevice

UID, SECRET_TEXT = "traced-user-4711", "text-of-the-body-4711"
TRACE = "0af7651916cd43dd8448eb211c80319c"
SAMPLED = {"traceparent": f"00-{TRACE}-b7ad6b7169203331-01"}


@pytest.fixture(scope="module")
def providers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FakeProviders]:
    with running(tmp_path_factory.mktemp("fakes")) as found:
        yield found


@pytest.fixture
async def collector() -> AsyncIterator[FakeCollector]:
    async with FakeCollector() as collector:
        yield collector


@pytest.fixture
def cluster(tmp_path: Path, providers: FakeProviders, collector: FakeCollector) -> Iterator[Cluster]:
    """One process of each service; only the traces of callers are recorded, and all due work."""
    entries = tmp_path / "categories.toml"
    push = 'title = "{{ body.who }} joined"\npush = { after = "0s" }\n'
    entries.write_text(f'["user"]\n{push}["both"]\n{push}email = {{ after = "0s" }}\n')
    made = Cluster(
        tmp_path / "c", ingests=1, gateways=1, schedulers=1, deliveries=1, categories=str(entries),
        trace_url=collector.url, trace_sample=0, log_level="debug", public_url="https://gregor.example",
        **providers.options("APNS", "VAPID", "WEBPUSH", "SMTP", "MAIL"),
    )  # fmt: skip
    made.schedulers[0].environ = {**made.schedulers[0].environ, "GREGOR_TRACE_SAMPLE": "1"}
    with made:
        yield made


def joined(item_id: str, category: str = "user") -> dict[str, Any]:
    return {"system": "gregor", "body": {"create": {item_id: {"category": category, "body": {"who": SECRET_TEXT}}}}}


async def test_traces_reach_frame_and_provider(
    cluster: Cluster, collector: FakeCollector, providers: FakeProviders
) -> None:
    async with cluster.api() as api:
        push = {"platform": "ios", "push": {"provider": "apns", "token": UID.encode().hex()}}
        await api.put(f"/v1/users/{UID}/devices/phone", json=push)
        async with WireDevice(cluster.gateway_urls[0], cluster.token(UID, "phone"), {}) as phone:
            await phone.synced()
            await api.post(f"/v1/users/{UID}/messages", json=joined("a"), headers=SAMPLED)
            live = await collector.trace_with(names.SEND_MESSAGE, names.FANOUT, names.DUE_WORK, names.DELIVER)
        await api.post(f"/v1/users/{UID}/messages", json=joined("b"))
        await wait_until(lambda: len(providers.titles()) == 2, "the second push")

    request, commit, fanout = (live[name] for name in (names.SEND_MESSAGE, names.COMMIT, names.FANOUT))
    assert (request.trace_id, request.parent_id) == (TRACE, "b7ad6b7169203331")
    assert (commit.parent_id, fanout.parent_id) == (request.span_id, commit.span_id)
    assert (request.service, fanout.service) == ("gregor-ingest", "gregor-gateway")
    assert commit.attributes[names.EFFECT] == "effect" and fanout.attributes[names.CONNECTIONS] == "1"

    due, deliver, call = (live[name] for name in (names.DUE_WORK, names.DELIVER, names.CALL_PROVIDER))
    assert (deliver.parent_id, call.parent_id) == (due.span_id, deliver.span_id)
    assert (due.trace_id, due.parent_id) == (TRACE, commit.span_id)
    assert due.attributes[names.WORK] == "push"
    assert call.attributes[names.CHANNEL] == "apns" and call.attributes[names.VERDICT] == "sent"
    assert call.attributes[names.PROVIDER_ID]
    assert not any(secret in b"".join(collector.bodies).decode() for secret in (UID, SECRET_TEXT, UID.encode().hex()))
    assert {each.trace_id for each in collector.spans if each.name == names.SEND_MESSAGE} == {TRACE}


async def test_web_push_and_mail_continue_the_trace(
    cluster: Cluster, collector: FakeCollector, providers: FakeProviders
) -> None:
    async with cluster.api() as api:
        browser = {"platform": "web", "push": {"provider": "webpush", "token": providers.subscription}}
        assert (await api.put("/v1/users/ann/devices/browser", json=browser)).is_success
        assert (await api.put("/v1/users/ann/contact", json={"email": "ann@example.com"})).is_success
        await api.post("/v1/users/ann/messages", json=joined("w", "both"), headers=SAMPLED)
        calls = await wait_until(lambda: calls_by_channel(collector, {"webpush", "email"}), "both calls of providers")

    assert {call.trace_id for call in calls.values()} == {TRACE}
    assert {call.attributes[names.VERDICT] for call in calls.values()} == {"sent"}


def calls_by_channel(collector: FakeCollector, channels: set[str]) -> dict[str, CollectedSpan] | None:
    """Return the calls of providers by channel, once all have come."""
    found = {each.attributes[names.CHANNEL]: each for each in collector.spans if each.name == names.CALL_PROVIDER}
    return found if set(found) == channels else None


async def test_device_cannot_force_a_trace(cluster: Cluster, collector: FakeCollector) -> None:
    async with cluster.api(cluster.token(UID, "phone")) as device, cluster.api() as backend:
        await device.post(f"/v1/users/{UID}/messages", json=joined("c"), headers=SAMPLED)
        await backend.post(f"/v1/users/{UID}/messages", json=joined("d"), headers=SAMPLED)
        await collector.trace_with(names.SEND_MESSAGE, names.COMMIT)

    assert [each.name for each in collector.spans].count(names.SEND_MESSAGE) == 1


async def test_refused_message_has_its_code(cluster: Cluster, collector: FakeCollector) -> None:
    async with cluster.api() as api:
        refused = await api.post(f"/v1/users/{UID}/messages", json={"system": "gregor"}, headers=SAMPLED)
        await wait_until(lambda: collector.spans, "the span")

    assert refused.status_code == 422
    attributes = collector.spans[0].attributes
    assert attributes[names.ERROR_TYPE] == refused.json()["code"]
    assert attributes[names.REQUEST_ID] == refused.headers["x-request-id"]
