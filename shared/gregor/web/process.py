"""The process of a service: start, errors at start, stop signals, and the probe server."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from typing import Any

import structlog
import uvloop

from gregor.config.live_settings import LiveSettings
from gregor.config.python_version import PYTHON_FIX, unpatched_python
from gregor.config.risky_settings import risky_settings
from gregor.config.secret_strength import FIX
from gregor.config.settings import Settings, SettingsError, load_settings, mask_password
from gregor.config.weak_secrets import refuse_weak_secrets, weak_secrets
from gregor.core.errors import Problem
from gregor.metrics.process import Metrics
from gregor.net import service_manager
from gregor.net.client_address import ClientAddresses
from gregor.net.connection_limits import ConnectionLimiter
from gregor.net.outgoing.lookups import ServiceLoop
from gregor.redis.errors import RedisUnavailable
from gregor.store.contract.store import Unavailable
from gregor.telemetry import configure_logging

from .counted_http import counted_http
from .http_admission import HttpAdmission
from .probes import WithoutPages, probes_app
from .readiness import Readiness
from .serving import listen_all, make_server

log = structlog.get_logger(__name__)

PROBES_DRAIN_S = 1.0


def run(service: str, serve: Callable[[LiveSettings], Coroutine[Any, Any, None]], *, has_queue: bool = False) -> None:
    """Run ``serve`` with the settings of the environment. If it fails at start, exit with status 1 and one line.

    ``has_queue``: the service needs the queue Redis too. A ``ValueError`` of ``serve`` means an unusable setting.
    Arguments of the command are refused with status 2.
    """
    if len(sys.argv) > 1:
        sys.stderr.write(_arguments_text(service))
        sys.exit(2)
    try:
        settings = load_settings(os.environ)
        refuse_weak_secrets(settings)
    except SettingsError as error:
        sys.exit(f"gregor {service}: {error}")
    configure_logging(service, settings.log_level, settings.log_format)
    for weak in weak_secrets(settings):
        log.warning("secret.weak", setting=weak.variable, reason=weak.why, fix=FIX)
    for risky in risky_settings(settings, os.environ):
        report = log.info if risky.is_expected else log.warning
        report("setting.risky", setting=risky.variable, reason=risky.why, fix=risky.fix)
    if reason := unpatched_python(sys.version_info[:3]):
        log.warning("python.unpatched", reason=reason, fix=PYTHON_FIX)
    try:
        uvloop.run(_serve(serve, LiveSettings(settings)), loop_factory=ServiceLoop)
    except Problem as problem:
        sys.exit(f"gregor {service}: GREGOR_CATEGORIES: {problem.detail}")
    except (RedisUnavailable, Unavailable) as error:
        urls = {mask_password(settings.redis_url)} | ({mask_password(settings.queue)} if has_queue else set())
        sys.exit(
            f"gregor {service}: Redis cannot be used at {' or '.join(sorted(urls))}: {error}; "
            f"check GREGOR_REDIS_URL{' and GREGOR_QUEUE_URL' if has_queue else ''}"
        )
    except ValueError as error:
        sys.exit(f"gregor {service}: {error}")
    except OSError as error:
        sys.exit(f"gregor {service}: {error.strerror or error}")


def _arguments_text(service: str) -> str:
    """Return the error for a command with arguments. It does not show them: they may contain a secret."""
    setting = "GREGOR_INGEST_AUDIENCE=devices" if service == "ingest" else f"GREGOR_{service.upper()}_PORT"
    return (
        f"python -m gregor_{service} takes no arguments; set variables such as {setting}, "
        f"or run gregor {service} with the options of gregor {service} --help\n"
    )


async def _serve(serve: Callable[[LiveSettings], Coroutine[Any, Any, None]], live: LiveSettings) -> None:
    """Run ``serve`` while the files of the secrets are followed and the watchdog of systemd gets its reports."""
    background = [asyncio.create_task(live.watch()), asyncio.create_task(service_manager.report_alive())]
    try:
        await serve(live)
    finally:
        for task in background:
            task.cancel()


def report_ready(**ports: int) -> None:
    """Log that the service accepts clients at these ports, and report it to systemd."""
    log.info("service.ready", **ports)
    service_manager.report(service_manager.READY)


class Shutdown:
    """The graceful stop of a process at SIGTERM or SIGINT, in three phases: pre-drain, drain, end.

    The first signal makes the process not ready. It serves as usual for ``pre_drain_s``, because load balancers need
    this time to notice. Then it drains: it takes no new work, and completes the rest. Each further signal ends the
    current phase at once.

    Args:
        hasten: Called at the signal that ends the drain, for a service that drains without ``drain``.
    """

    def __init__(self, readiness: Readiness, pre_drain_s: float, hasten: Callable[[], None] = lambda: None) -> None:
        self._readiness = readiness
        self._pre_drain_s = pre_drain_s
        self._hasten = hasten
        self._stopping = asyncio.Event()
        self._draining = asyncio.Event()
        self._hastened = asyncio.Event()

    def on_signals(self) -> None:
        """Handle SIGTERM and SIGINT from now on."""
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, self.signal)

    def signal(self) -> None:
        """Begin the stop. Each later call ends the current phase of it."""
        if not self._stopping.is_set():
            self._readiness.stopping = True
            self._stopping.set()
        elif not self._draining.is_set():
            self._draining.set()
        else:
            self._hastened.set()
            self._hasten()

    def fail(self) -> None:
        """Begin to drain at once, without pre-drain: the process can no longer serve."""
        self._readiness.stopping = True
        self._stopping.set()
        self._draining.set()

    async def wait_until_drain(self) -> None:
        """Return when the drain must begin: after the pre-drain, a second signal, or ``fail``."""
        await self._stopping.wait()
        service_manager.report(service_manager.STOPPING)
        if not self._draining.is_set():
            log.info("service.stopping", drains_in_s=self._pre_drain_s)
            with suppress(TimeoutError):
                async with asyncio.timeout(self._pre_drain_s):
                    await self._draining.wait()
        self._draining.set()
        self._readiness.draining = True
        log.info("service.draining")

    async def drain(self, work: Awaitable[object], timeout_s: float) -> None:
        """Wait until ``work`` ends, for at most ``timeout_s``; a further signal ends the wait. Then cancel ``work``.

        Exceptions of ``work`` are raised if it ends before it is cancelled.
        """
        working, hastened = asyncio.ensure_future(work), asyncio.ensure_future(self._hastened.wait())
        await asyncio.wait([working, hastened], timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        hastened.cancel()
        if working.done():
            await working
        working.cancel()
        await asyncio.wait([working])


def tune_garbage_collector() -> None:
    """Collect garbage rarely: requests create few reference cycles, and a full collection pauses the whole process."""
    # Everything allocated so far lives as long as the process: freeze() removes it from later collections.
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)


class ProbeServer:
    """The HTTP server of a service without public HTTP: probes, and metrics on ADMIN_PORT if that is set."""

    def __init__(self, settings: Settings, readiness: Readiness, metrics: Metrics, port_field: str) -> None:
        port = getattr(settings, port_field)
        proxies = ClientAddresses(settings.trusted_proxies)
        probes = probes_app(
            readiness,
            metrics,
            with_metrics=settings.admin_port is None,
            proxies=None if settings.metrics_public else proxies,
        )
        admission = HttpAdmission(ConnectionLimiter(settings.connection_limits), proxies, metrics.refuse_connection)
        protocol = counted_http(admission.for_probes())
        self._servers = [make_server(probes, settings.host, port, PROBES_DRAIN_S, protocol=protocol)]
        if settings.admin_port is not None:
            admin, protocol = WithoutPages(probes_app(readiness, metrics)), counted_http(admission.for_probes())
            self._servers.append(
                make_server(admin, settings.admin_address, settings.admin_port, PROBES_DRAIN_S, protocol=protocol)
            )
        self._sockets = listen_all(settings, port_field)

    def start(self) -> None:
        """Start serving."""
        pairs = zip(self._servers, self._sockets, strict=True)
        self._serving = [asyncio.create_task(server.serve(sockets=[socket])) for server, socket in pairs]

    async def close(self) -> None:
        """Finish the current requests and close the ports."""
        for server in self._servers:
            server.should_exit = True
        await asyncio.gather(*self._serving, return_exceptions=True)
        for socket in self._sockets:
            socket.close()
