"""One device must not stop Web Push for all: a subscription of another key, and an origin that cannot be reached."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from structlog.testing import capture_logs

from gregor.auth.vapid import VapidKey
from gregor.clock import ManualClock
from gregor.core.messages.parse import parse_message
from gregor.core.messages.plan import plan
from gregor.core.notify.intents import WEBPUSH, Intent, IntentKind
from gregor.core.notify.ledger import DeliveryState
from gregor.dev.fakes.http1 import FakeResponse
from gregor.dev.fakes.keys import write_key
from gregor.dev.fakes.tls import CertificateAuthority
from gregor.dev.fakes.webpush import FakeWebPush
from gregor.reference.store import MemoryStore
from gregor.registries.categories import CategoryRegistry
from gregor.store.contract.devices import Registration
from gregor.store.contract.push_context import PushContext
from gregor_delivery.attempt import DeliveryContext, attempt
from gregor_delivery.channels.verdict import Misconfigured, Refused, Retry, Sent
from gregor_delivery.channels.webpush.channel import REFUSED_USERS, WebPushChannel, WebPushConfig
from gregor_delivery.decide.push import MAX_COUNTED, PushDecider
from gregor_delivery.metrics import DeliveryMetrics
from gregor_delivery.throttle.breaker import FAILURE_THRESHOLD, FIRST_PAUSE_S, OTHERS_FIRST_S, channel_breaker
from gregor_delivery.throttle.web_push_origins import (
    APNS_SANDBOX,
    APPLE,
    CONCURRENT_WILDCARD,
    MAX_ORIGINS,
    WebPushOrigins,
    origin_of,
)
from gregor_delivery.throttle.webhook_endpoints import WebhookEndpoints
from tests.support.builders import BY_BACKEND, LIMITS, NOW_US, SEED, item, message
from tests.support.sample_pushes import push
from tests.unit.delivery.harness import NullPublisher
from tests.unit.delivery.sample_categories import ENTRIES

SUBJECT = "mailto:ops@example.com"
UNREACHABLE = "localhost:9"
ATTEMPTS = 4 * FAILURE_THRESHOLD


@dataclass
class IsolationHarness:
    """A delivery process of Web Push, with the production breakers, and two fake services."""

    store: MemoryStore
    registry: CategoryRegistry
    fake: FakeWebPush
    second_fake: FakeWebPush
    channel: WebPushChannel
    context: DeliveryContext
    key: VapidKey

    async def intent(self, uid: str, item_id: str, token: dict[str, Any]) -> Intent:
        """Register the user's browser and plan a push of a new item to it."""
        registration = Registration("web", {"provider": WEBPUSH, "token": token}, None)
        await self.store.devices.put_device(uid, "browser", registration, NOW_US)
        document = message({item_id: item(body={"title": item_id})})
        commit = plan(parse_message(document, LIMITS), BY_BACKEND, NOW_US, SEED, LIMITS, self.registry.current)
        receipt = await self.store.users.commit(uid, commit)
        intent = Intent(uid, item_id, IntentKind.ITEM, WEBPUSH, "browser", 0, receipt.seq, NOW_US)
        await self.store.ledger.plan([intent], DeliveryState.PLANNED, None, intent.at_us)
        return intent

    async def state(self, intent: Intent) -> tuple[DeliveryState, str | None]:
        """Return the state of a delivery, and the reason."""
        [found] = await self.store.ledger.of_item(intent.uid, intent.item)
        return found.state, found.history.reason


@pytest.fixture
async def harness(tmp_path: Path) -> AsyncIterator[IsolationHarness]:
    authority = CertificateAuthority(tmp_path)
    fake, second_fake = FakeWebPush(authority), FakeWebPush(authority)
    await fake.start()
    await second_fake.start()
    write_key(tmp_path / "vapid.pem")
    hosts, clock = (fake.host, second_fake.host, UNREACHABLE), ManualClock(NOW_US)
    channel = WebPushChannel(WebPushConfig(tmp_path / "vapid.pem", SUBJECT, hosts, authority.ca_file), clock)
    await channel.open()
    store = MemoryStore(LIMITS, NullPublisher())
    await store.categories.apply(ENTRIES, NOW_US, 0)
    registry = CategoryRegistry(store)
    await registry.refresh()
    decider = PushDecider(store, registry, WebPushOrigins(hosts, clock), clock=clock)
    metrics, breaker = DeliveryMetrics(CollectorRegistry()), channel_breaker(WEBPUSH)
    context = DeliveryContext(WEBPUSH, channel, store, decider, clock, metrics, breaker, 5.0)
    key = VapidKey.read(tmp_path / "vapid.pem", SUBJECT)
    yield IsolationHarness(store, registry, fake, second_fake, channel, context, key)
    await channel.close()
    await fake.close()
    await second_fake.close()


async def test_subscription_of_another_key_does_not_stop_the_channel(harness: IsolationHarness) -> None:
    other = harness.fake.subscribe("mallory", "another-key")
    for n in range(ATTEMPTS):
        await attempt(harness.context, await harness.intent("mallory", f"m{n}", other))
    good = await harness.intent("alice", "a", harness.fake.subscribe("alice", harness.key.public_key))

    assert harness.context.breaker.capacity(1, harness.context.clock.monotonic()) == 1
    assert await attempt(harness.context, good) is None
    assert await harness.state(good) == (DeliveryState.SENT, None)


async def test_invalid_subscriptions_do_not_keep_the_breaker_of_an_origin_closed(harness: IsolationHarness) -> None:
    good = [harness.fake.subscribe(f"u{n}", harness.key.public_key) for n in range(FAILURE_THRESHOLD)]
    invalid = {"endpoint": good[0]["endpoint"], "keys": {"p256dh": "x", "auth": "y"}}
    for n, subscription in enumerate(good):
        harness.fake.script(f"u{n}", FakeResponse(503))
        await attempt(harness.context, await harness.intent(f"u{n}", "a", subscription))
        await attempt(harness.context, await harness.intent("mallory", f"m{n}", invalid))
    last = await harness.intent("u0", "last", good[0])
    await attempt(harness.context, last)

    assert await harness.state(last) == (DeliveryState.WAITING, "receiver_down")


async def test_unreachable_origin_does_not_stop_the_channel(harness: IsolationHarness) -> None:
    for n in range(ATTEMPTS):
        dead = harness.fake.subscribe(f"m{n}", "k") | {"endpoint": f"https://{UNREACHABLE}/push/m{n}"}
        last = await harness.intent(f"m{n}", "m", dead)
        await attempt(harness.context, last)
    good = await harness.intent("alice", "a", harness.fake.subscribe("alice", harness.key.public_key))

    assert harness.context.breaker.capacity(1, harness.context.clock.monotonic()) == 1
    assert await attempt(harness.context, good) is None
    assert await harness.state(good) == (DeliveryState.SENT, None)
    assert await harness.state(last) == (DeliveryState.WAITING, "receiver_down")


async def test_push_to_an_origin_that_is_down_counts_no_items(harness: IsolationHarness) -> None:
    """Any device can choose an origin that is down. Its pushes are then decided again and again for a day."""
    dead = harness.fake.subscribe("mallory", "k") | {"endpoint": f"https://{UNREACHABLE}/push/mallory"}
    for n in range(FAILURE_THRESHOLD):
        await attempt(harness.context, await harness.intent(f"u{n}", "a", dead))
    intents = [await harness.intent("mallory", f"m{n}", dead) for n in range(MAX_COUNTED + 1)]
    limits, read = list[int](), harness.store.push_contexts.read

    async def noted(*args: Any, most_counted: int, **others: Any) -> PushContext | None:
        limits.append(most_counted)
        return await read(*args, most_counted=most_counted, **others)

    harness.store.push_contexts.read = noted  # type: ignore[assignment,method-assign]
    await attempt(harness.context, intents[-1])

    assert await harness.state(intents[-1]) == (DeliveryState.WAITING, "receiver_down")
    assert limits == [MAX_COUNTED]


async def test_key_rejected_for_several_users_stops_the_channel(harness: IsolationHarness) -> None:
    other = harness.fake.subscribe("firefox", "another-key")
    verdicts = [await harness.channel.send(push(uid=f"u{n}", token=other), 5) for n in range(REFUSED_USERS)]

    rejected = (None, "403", "localhost rejects the VAPID key")
    assert verdicts == [Retry(*rejected)] * (REFUSED_USERS - 1) + [Misconfigured(*rejected[1:])]


async def test_accepted_origin_never_stops_the_channel(harness: IsolationHarness) -> None:
    good = harness.fake.subscribe("alice", harness.key.public_key)
    other = harness.fake.subscribe("firefox", "another-key")
    assert isinstance(await harness.channel.send(push(uid="alice", token=good), 5), Sent)

    verdicts = [await harness.channel.send(push(uid=f"u{n}", token=other), 5) for n in range(2 * REFUSED_USERS)]

    assert {type(each) for each in verdicts} == {Refused}


async def test_key_accepted_by_another_origin_never_stops_the_channel(harness: IsolationHarness) -> None:
    """A subscription of another key at an origin that has accepted no push yet concerns only its own device."""
    good = harness.fake.subscribe("alice", harness.key.public_key)
    other = harness.second_fake.subscribe("firefox", "another-key")
    assert isinstance(await harness.channel.send(push(uid="alice", token=good), 5), Sent)
    with capture_logs() as logs:
        verdicts = [await harness.channel.send(push(uid=f"u{n}", token=other), 5) for n in range(2 * REFUSED_USERS)]

    assert verdicts == [Retry(None, "403", "localhost rejects the VAPID key")] * (2 * REFUSED_USERS)
    assert [(each["event"], each["host"]) for each in logs] == [("webpush.key_rejected", "localhost")]


@pytest.mark.parametrize("answer", [FakeResponse(429, headers={"retry-after": "3600"}), FakeResponse(502)])
async def test_failing_device_does_not_stop_its_origin(harness: IsolationHarness, answer: FakeResponse) -> None:
    failing = harness.fake.subscribe("mallory", harness.key.public_key)
    harness.fake.script("mallory", *[answer] * ATTEMPTS)
    for n in range(ATTEMPTS):
        await attempt(harness.context, await harness.intent("mallory", f"m{n}", failing))
    good = await harness.intent("alice", "a", harness.fake.subscribe("alice", harness.key.public_key))

    assert await attempt(harness.context, good) is None
    assert await harness.state(good) == (DeliveryState.SENT, None)


def test_other_users_probe_an_origin_before_those_whose_sends_failed() -> None:
    clock = ManualClock(NOW_US)
    origins = WebPushOrigins(("push.example",), clock)
    for n in range(FAILURE_THRESHOLD):
        origins.acquire("push.example", f"u{n}").record(Retry(None, "502", "Bad Gateway"), clock.monotonic())
    clock.advance(FIRST_PAUSE_S)

    assert (origins.wait_s("push.example", "u0"), origins.wait_s("push.example", "alice")) == (OTHERS_FIRST_S, 0.0)
    clock.advance(OTHERS_FIRST_S)
    assert origins.wait_s("push.example", "u0") == 0.0


def test_user_that_cannot_reach_a_fixed_origin_delays_no_other() -> None:
    clock = ManualClock(NOW_US)
    origins = WebPushOrigins(("push.example", "*.notify.windows.com"), clock)

    def fail(origin: str, uid: str) -> None:
        origins.acquire(origin, uid).record(Retry(None, None, "cannot connect"), clock.monotonic())

    for _ in range(ATTEMPTS):
        fail("push.example", "mallory")
        fail("x.notify.windows.com", "mallory")
    assert not origins.is_down("push.example") and origins.is_down("x.notify.windows.com")
    for n in range(FAILURE_THRESHOLD - 1):
        fail("push.example", f"u{n}")
    assert origins.is_down("push.example")
    clock.advance(FIRST_PAUSE_S)
    assert origins.wait_s("push.example", "mallory") == OTHERS_FIRST_S
    assert origins.wait_s("push.example", "alice") == 0.0


def test_origins_below_a_wildcard_are_bounded_and_limited() -> None:
    clock = ManualClock(NOW_US)
    origins = WebPushOrigins(("push.example", "*.notify.windows.com"), clock)
    permits = [origins.acquire("x.notify.windows.com", f"u{n}") for n in range(CONCURRENT_WILDCARD)]

    assert [origins.is_own(each) for each in ("x.notify.windows.com", APNS_SANDBOX, "push.example", APPLE)] == [
        True,
        True,
        False,
        False,
    ]
    assert origins.wait_s("x.notify.windows.com", "new") > 0.0
    assert origins.wait_s("y.notify.windows.com", "new") == origins.wait_s("push.example", "new") == 0.0
    for permit in permits:
        permit.record(Retry(None, None, "cannot connect"), clock.monotonic())
    assert origins.is_down("x.notify.windows.com") and not origins.is_down("y.notify.windows.com")


def test_waiting_pushes_of_a_user_take_no_turns_of_others() -> None:
    clock = ManualClock(NOW_US)
    origins = WebPushOrigins(("*.notify.windows.com",), clock)
    while origins.wait_s("x.notify.windows.com", "mallory") == 0.0:
        origins.acquire("x.notify.windows.com", "mallory")
    clock.advance(14.0)
    assert max(origins.turn_s("x.notify.windows.com", "mallory") for _ in range(300)) > 300.0
    others = 0
    while origins.wait_s("x.notify.windows.com", f"u{others}") == 0.0:
        origins.acquire("x.notify.windows.com", f"u{others}")
        others += 1

    assert origins.turn_s("x.notify.windows.com", "new") < 1.0


def test_forgotten_endpoints_are_the_idle_ones() -> None:
    endpoints = WebhookEndpoints(1, MAX_ORIGINS)
    endpoints.acquire("busy", 0.0)
    for n in range(2 * MAX_ORIGINS):
        endpoints.wait_s(f"o{n}", 0.0)

    assert endpoints.wait_s("busy", 0.0) > 0.0
    assert endpoints.remembered == MAX_ORIGINS


@pytest.mark.parametrize(
    ("endpoint", "origin"),
    [
        ("https://Push.Example/a", "push.example"),
        ("https://push.example:0443/a", "push.example"),
        ("https://push.example.:443/a", "push.example."),
        ("https://localhost:8443/a", "localhost:8443"),
        ("https://[::1", ""),
    ],
)
def test_origin_of_an_endpoint(endpoint: str, origin: str) -> None:
    assert origin_of(endpoint) == origin
