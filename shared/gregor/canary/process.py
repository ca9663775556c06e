"""The process of a canary: a round every few seconds, its log events, and the port of its metrics."""

from __future__ import annotations

import asyncio
import itertools
import signal
from collections.abc import Callable
from typing import Final, get_args

import structlog
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp

from gregor.metrics.process import METRICS_CONTENT_TYPE
from gregor.net import service_manager
from gregor.web.probes import WithoutPages
from gregor.web.serving import listen, make_server

from .metrics import CanaryMetrics
from .receivers import Transport
from .round import CheckedDeployment, RoundResult, run_round

log = structlog.get_logger(__name__)

TRANSPORTS: Final[tuple[Transport, ...]] = get_args(Transport)


async def run_once(target: CheckedDeployment, report: Callable[[RoundResult], None]) -> bool:
    """Perform one round over each transport, and report each. Return whether none failed."""
    results = []
    for transport in TRANSPORTS:
        results.append(await run_round(target, transport))
        report(results[-1])
    return all(result.failure is None for result in results)


async def run_canary(target: CheckedDeployment, every_s: float, host: str, port: int) -> None:
    """Perform rounds over the transports in turn until SIGTERM or SIGINT.

    Raises OSError if the port cannot be used.
    """
    metrics = CanaryMetrics()
    stopping = asyncio.Event()
    listening = listen(host, port)
    server = make_server(canary_app(metrics), host, port, drain_s=1.0)
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    serving = asyncio.create_task(server.serve(sockets=[listening]))
    rounds = asyncio.create_task(_run_rounds(target, every_s, metrics))
    alive = asyncio.create_task(service_manager.report_alive())
    rounds.add_done_callback(lambda _: stopping.set())  # rounds end only by a bug
    log.info("canary.ready", ingest=target.ingest, gateway=target.gateway, stream=target.stream, metrics=port)
    service_manager.report(service_manager.READY)
    await stopping.wait()
    service_manager.report(service_manager.STOPPING)
    server.should_exit = True
    for task in (rounds, alive):
        task.cancel()
    ended, *_ = await asyncio.gather(rounds, alive, serving, return_exceptions=True)
    listening.close()
    if isinstance(ended, Exception):
        raise ended
    log.info("canary.stopped")


async def _run_rounds(target: CheckedDeployment, every_s: float, metrics: CanaryMetrics) -> None:
    loop = asyncio.get_running_loop()
    for transport in itertools.cycle(TRANSPORTS):
        next_s = loop.time() + every_s
        result = await run_round(target, transport)
        metrics.observe(result)
        if result.failure is not None:
            failure = result.failure
            log.error(
                "canary.failed",
                transport=transport,
                stage=failure.stage.value,
                reason=failure.detail,
                fix=failure.stage.fix,
            )
        await asyncio.sleep(next_s - loop.time())


def canary_app(metrics: CanaryMetrics) -> ASGIApp:
    """Return the application of the canary's port: its metrics, and whether it is alive."""

    async def health(_request: Request) -> Response:
        return Response(b'{"alive":true}', media_type="application/json")

    async def exposition(_request: Request) -> Response:
        return Response(metrics.exposition(), headers={"Content-Type": METRICS_CONTENT_TYPE})

    return WithoutPages(Starlette(routes=[Route("/healthz", health), Route("/metrics", exposition)]))
