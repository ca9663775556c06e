"""A device chooses the sandbox of APNs: a failing sandbox stops no pushes to production."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gregor.core.limits import SECOND_US
from gregor.core.notify.ledger import DeliveryState
from gregor.store.contract.devices import Registration
from gregor_delivery.attempt import attempt
from gregor_delivery.channels.verdict import Misconfigured, Retry, Sent, Unknown, Verdict
from gregor_delivery.decide.push import PushDecider
from gregor_delivery.throttle.breaker import FAILURE_THRESHOLD, STOPPED_S
from gregor_delivery.throttle.web_push_origins import APNS_SANDBOX, WebPushOrigins
from tests.support.builders import NOW_US
from tests.unit.delivery.harness import DeliveryHarness
from tests.unit.delivery.sample_categories import TOKEN

UNREACHABLE = Retry(None, None, "cannot connect")


@pytest.fixture
async def isolated(harness: DeliveryHarness) -> DeliveryHarness:
    """Return the harness with the breakers of a delivery process. The phone of alice has a token of the sandbox."""
    use_origins(harness, WebPushOrigins((), harness.clock))
    return harness


def use_origins(harness: DeliveryHarness, origins: WebPushOrigins) -> None:
    decider = PushDecider(harness.store, harness.registry, origins, clock=harness.clock)
    harness.context = replace(harness.context, decider=decider)


async def send_to_production(harness: DeliveryHarness) -> int | None:
    """Attempt a push to a token of production. Returns when to attempt it again."""
    token = {**TOKEN, "token": "production", "sandbox": False}
    await harness.store.devices.put_device("bob", "phone", Registration("ios", token, "it"), NOW_US)
    return await attempt(harness.context, await harness.create("b", uid="bob"))


@pytest.mark.parametrize("verdict", [UNREACHABLE, Misconfigured(None, "the certificate is not trusted")])
async def test_failing_sandbox_does_not_stop_production(isolated: DeliveryHarness, verdict: Verdict) -> None:
    isolated.provider.verdicts = [verdict] * FAILURE_THRESHOLD
    for n in range(FAILURE_THRESHOLD + 1):
        await attempt(isolated.context, await isolated.create(f"a{n}"))

    assert await isolated.outcome(f"a{FAILURE_THRESHOLD}") == (DeliveryState.WAITING, "receiver_down")
    isolated.provider.verdicts = []
    assert not isolated.context.breaker.is_open and await send_to_production(isolated) is None


async def test_sandbox_does_not_close_the_breaker_of_production(isolated: DeliveryHarness) -> None:
    for _ in range(FAILURE_THRESHOLD):
        isolated.context.breaker.acquire("bob").record(UNREACHABLE, isolated.clock.monotonic())

    assert await attempt(isolated.context, await isolated.create("a")) is None
    assert isolated.context.breaker.is_open


async def test_failing_production_does_not_stop_the_sandbox(isolated: DeliveryHarness) -> None:
    isolated.provider.verdicts = [Unknown("no response")]
    assert await send_to_production(isolated) is not None

    assert await attempt(isolated.context, await isolated.create("a")) is None


async def test_user_whom_the_sandbox_rejects_waits_for_its_whole_pause(harness: DeliveryHarness) -> None:
    origins, rejected = WebPushOrigins((), harness.clock), Misconfigured("403", "BadTopic")
    for uid, verdict in (("alice", rejected), ("bob", Sent("200")), ("alice", rejected)):
        origins.acquire(APNS_SANDBOX, uid).record(verdict, harness.clock.monotonic())
    use_origins(harness, origins)

    again_us = await attempt(harness.context, await harness.create("a"))

    assert again_us == harness.clock.now_us() + round(STOPPED_S * SECOND_US)
