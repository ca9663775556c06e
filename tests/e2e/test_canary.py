"""The canary sees each planted fault within three rounds, and reports none in a healthy deployment."""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from redis.asyncio import Redis

from gregor.canary.failure import Stage
from gregor.canary.process import TRANSPORTS
from gregor.canary.round import CheckedDeployment, RoundResult, run_round
from gregor.client.tokens import mint_device_token
from gregor.dev.processes import end_with_parent
from tests.support.certificates import write_certificate
from tests.support.cluster import ROOT, Cluster, Service
from tests.support.fault_proxy import FaultProxy
from tests.support.ports import free_port
from tests.support.wait import wait_until

ROUNDS = 3
HEALTHY_ROUNDS = 10


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """One process of each service; the gateway has its own Redis user."""
    users = ("--user", "gateway", "on", ">secret", "~*", "+@all", "allchannels")
    made = Cluster(
        tmp_path_factory.mktemp("canary"),
        ingests=1,
        gateways=1,
        schedulers=1,
        server_options=users,
        compare_interval=60,
    )
    gateway = made.gateways[0]
    gateway.environ = {**gateway.environ, "GREGOR_REDIS_URL": made.server.url.replace("://", "://gateway:secret@")}
    with made:
        yield made


@pytest.fixture
def target(cluster: Cluster) -> CheckedDeployment:
    """The deployment as it is. The bounds are generous: the machine of the tests may be busy."""

    def credentials() -> tuple[str, str]:
        return cluster.key, cluster.token("canary", "canary")

    urls = cluster.ingest_urls[0], cluster.gateway_urls[0], cluster.stream_urls[0]
    return CheckedDeployment(*urls, "canary", credentials, timeout_s=10, late_s=5)


def hasty(target: CheckedDeployment, **changes: Any) -> CheckedDeployment:
    """Return a target with a fault; a stage that hangs ends soon."""
    return dataclasses.replace(target, **{"timeout_s": 2.0, **changes})


async def first_failure(target: CheckedDeployment) -> RoundResult:
    """Perform rounds until one fails; fail the test if three do not."""
    for _, transport in zip(range(ROUNDS), itertools.cycle(TRANSPORTS), strict=False):
        result = await run_round(target, transport)
        if result.failure is not None:
            return result
    raise AssertionError(f"no failure in {ROUNDS} rounds")


async def first_stage(target: CheckedDeployment) -> Stage:
    failure = (await first_failure(target)).failure
    assert failure is not None and failure.detail and failure.stage.fix
    return failure.stage


@asynccontextmanager
async def stopped(service: Service) -> AsyncIterator[None]:
    """Stop a process without ending it, as if it hung."""
    service.signal(signal.SIGSTOP)
    try:
        yield
    finally:
        service.signal(signal.SIGCONT)


async def test_healthy_deployment_never_fails(target: CheckedDeployment) -> None:
    for _, transport in zip(range(HEALTHY_ROUNDS), itertools.cycle(TRANSPORTS), strict=False):
        result = await run_round(target, transport)

        assert result.failure is None
        assert None not in (result.connect_s, result.publish_s, result.receive_s, result.timer_late_s)


async def test_items_are_dismissed(target: CheckedDeployment, cluster: Cluster) -> None:
    await run_round(target, "websocket")
    async with cluster.api() as api:
        state = (await api.get("/v1/users/canary/state")).json()

    assert state["items"] == {}


async def test_key_may_be_limited_to_the_category(target: CheckedDeployment, cluster: Cluster) -> None:
    key = json.loads(cluster.gregor("keys", "create", "--json", "--scope", "ingest", "--prefix", "canary"))["key"]
    limited = dataclasses.replace(target, credentials=lambda: (key, cluster.token("canary", "canary")))

    assert (await run_round(limited, "sse")).failure is None


async def test_missing_ingest_is_seen(target: CheckedDeployment) -> None:
    assert await first_stage(hasty(target, ingest=f"http://127.0.0.1:{free_port()}")) is Stage.PUBLISH_CONNECT


async def test_missing_gateway_is_seen(target: CheckedDeployment) -> None:
    assert await first_stage(hasty(target, gateway=f"ws://127.0.0.1:{free_port()}")) is Stage.CONNECT


async def test_refusing_ingest_is_seen(target: CheckedDeployment) -> None:
    async def refuse(data: bytes) -> bytes:
        return re.sub(rb"^HTTP/1.1 20\d \w+", b"HTTP/1.1 503 Service Unavailable", data)

    async with FaultProxy(target.ingest, refuse) as proxy:
        failed = await first_failure(hasty(target, ingest=proxy.url))

    assert failed.failure is not None and failed.failure.stage is Stage.PUBLISH_REFUSED
    assert "503" in failed.failure.detail


async def test_hanging_ingest_is_seen(target: CheckedDeployment, cluster: Cluster) -> None:
    async with stopped(cluster.ingests[0]):
        assert await first_stage(hasty(target)) is Stage.PUBLISH_TIMEOUT


async def test_wrong_token_secret_is_seen(target: CheckedDeployment) -> None:
    def credentials() -> tuple[str, str]:
        return target.credentials()[0], mint_device_token("another secret of thirty-two bytes", "canary", "canary")

    for transport in TRANSPORTS:
        failure = (await run_round(hasty(target, credentials=credentials), transport)).failure
        assert failure is not None and failure.stage is Stage.AUTH


async def test_unknown_service_key_is_seen(target: CheckedDeployment) -> None:
    def credentials() -> tuple[str, str]:
        return "gk_unknown_0123456789abcdef", target.credentials()[1]

    assert await first_stage(hasty(target, credentials=credentials)) is Stage.PUBLISH_AUTH


async def test_certificate_is_checked(
    target: CheckedDeployment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    certificate = str(write_certificate(tmp_path))
    async with (
        FaultProxy(target.ingest, certificate=certificate) as ingest,
        FaultProxy(target.gateway, certificate=certificate) as gateway,
        FaultProxy(target.stream, certificate=certificate) as stream,
    ):
        secure = dataclasses.replace(target, ingest=ingest.url, gateway=gateway.url, stream=stream.url)
        of_ingest = await first_stage(hasty(target, ingest=ingest.url))
        of_gateway = await first_stage(hasty(target, gateway=gateway.url))
        of_stream = (await run_round(hasty(target, stream=stream.url), "sse")).failure
        monkeypatch.setenv("SSL_CERT_FILE", certificate)
        trusted = [(await run_round(secure, transport)).failure for transport in TRANSPORTS]

    assert (of_ingest, of_gateway) == (Stage.PUBLISH_TLS, Stage.TLS)
    assert of_stream is not None and of_stream.stage is Stage.TLS
    assert trusted == [None, None]


async def test_expired_certificate_is_seen(
    target: CheckedDeployment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    certificate = str(write_certificate(tmp_path, timedelta(hours=-1)))
    monkeypatch.setenv("SSL_CERT_FILE", certificate)
    async with FaultProxy(target.gateway, certificate=certificate) as proxy:
        failed = await first_failure(hasty(target, gateway=proxy.url))

    assert failed.failure is not None and failed.failure.stage is Stage.TLS
    assert "expired" in failed.failure.detail


async def test_hanging_gateway_is_seen(target: CheckedDeployment, cluster: Cluster) -> None:
    async with stopped(cluster.gateways[0]):
        assert await first_stage(hasty(target)) is Stage.NO_SYNC


async def test_hanging_scheduler_is_seen(target: CheckedDeployment, cluster: Cluster) -> None:
    async with stopped(cluster.schedulers[0]):
        assert await first_stage(hasty(target)) is Stage.TIMER_MISSING


async def test_buffering_proxy_is_seen(target: CheckedDeployment) -> None:
    async def hold_back(data: bytes) -> bytes:
        await asyncio.Event().wait()
        return data

    async with FaultProxy(target.stream, hold_back) as proxy:
        failed = await first_failure(hasty(target, stream=proxy.url))

    assert failed.failure is not None and failed.failure.stage is Stage.NO_SYNC
    assert failed.transport == "sse" and "buffering" in failed.failure.stage.fix


async def test_lost_message_is_seen(target: CheckedDeployment) -> None:
    async def lose(data: bytes) -> bytes:
        return b"" if b'"canary-' in data and b'"sync"' not in data else data

    async with FaultProxy(target.gateway, lose) as proxy:
        assert await first_stage(hasty(target, gateway=proxy.url)) is Stage.NOT_RECEIVED


async def test_late_message_is_seen(target: CheckedDeployment) -> None:
    async def delay(data: bytes) -> bytes:
        if b'"canary-' in data:
            await asyncio.sleep(0.6)
        return data

    async with FaultProxy(target.gateway, delay) as proxy:
        assert await first_stage(hasty(target, gateway=proxy.url, timeout_s=10, late_s=0.5)) is Stage.LATE


async def test_changed_message_is_seen(target: CheckedDeployment) -> None:
    async def change(data: bytes) -> bytes:
        return data.replace(b'{"canary":"', b'{"canary":"x')[:-1] + b"}" if b'{"canary":"' in data else data

    async with FaultProxy(target.stream, change) as proxy:
        assert await first_stage(hasty(target, stream=proxy.url)) is Stage.WRONG_BODY


async def test_deaf_feed_is_seen(target: CheckedDeployment, cluster: Cluster) -> None:
    """The gateway may not subscribe any longer: whatever it does then, devices get no live changes."""
    redis = Redis.from_url(cluster.server.url)
    await redis.execute_command("ACL", "SETUSER", "gateway", "resetchannels")
    try:
        assert await first_stage(hasty(target)) in (Stage.NOT_RECEIVED, Stage.CLOSED, Stage.NO_SYNC)
    finally:
        await redis.execute_command("ACL", "SETUSER", "gateway", "allchannels")
        await redis.aclose()
    await wait_until(lambda: _is_healthy(target), "the gateway recovers", 60)


async def _is_healthy(target: CheckedDeployment) -> bool:
    return (await run_round(target, "websocket")).failure is None


def command(cluster: Cluster, *words: str) -> tuple[list[str], dict[str, str]]:
    """Return the command of a canary and its environment."""
    arguments = ["--url", cluster.ingest_urls[0], "--gateway", cluster.gateway_urls[0]]
    program = "from gregor.cli import main; main()"
    environ = {name: value for name, value in os.environ.items() if not name.startswith("GREGOR_")}
    environ |= {"GREGOR_KEY": cluster.key, "GREGOR_TOKEN_SECRET": cluster.secret}
    environ |= {"PYTHONPATH": os.pathsep.join(map(str, (ROOT / "shared", ROOT / "services")))}
    return [sys.executable, "-c", program, "canary", *arguments, *words], environ


def test_single_check_prints_its_result(cluster: Cluster) -> None:
    words, environ = command(cluster, "--once", "--stream", cluster.stream_urls[0])
    done = subprocess.run(words, env=environ, capture_output=True, text=True)
    broken, _ = command(cluster, "--once", "--stream", f"http://127.0.0.1:{free_port()}")
    failed = subprocess.run(broken, env=environ, capture_output=True, text=True)

    assert (done.returncode, done.stderr) == (0, "")
    assert [line.split()[:2] for line in done.stdout.splitlines()] == [["ok", "websocket"], ["ok", "sse"]]
    assert failed.returncode == 1
    assert "fail  sse" in failed.stdout and Stage.CONNECT.fix in failed.stdout


async def test_process_has_metrics_and_stops(cluster: Cluster, tmp_path: Path) -> None:
    port = free_port()
    stream = f"http://127.0.0.1:{free_port()}"
    words, environ = command(cluster, "--stream", stream, "--every", "0.2s", "--port", str(port))
    log = tmp_path / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(words, env=environ, stderr=output, preexec_fn=end_with_parent())
    try:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False) as http:

            async def metrics() -> str:
                try:
                    assert (await http.get("/healthz")).status_code == 200
                    return (await http.get("/metrics")).text
                except httpx.ConnectError:
                    return ""

            async def has_failed() -> bool:
                return 'gregor_canary_failures_total{stage="connect",transport="sse"}' in await metrics()

            await wait_until(has_failed, log.read_text, 30)
            assert 'gregor_canary_receive_seconds_count{transport="websocket"} 1' in await metrics()
    finally:
        process.terminate()
        status = process.wait(10)

    events = [json.loads(line) for line in log.read_text("utf-8").splitlines()]
    failed = next(event for event in events if event["event"] == "canary.failed")
    assert status == 0 and events[-1]["event"] == "canary.stopped"
    assert (failed["transport"], failed["stage"], failed["fix"]) == ("sse", "connect", Stage.CONNECT.fix)
