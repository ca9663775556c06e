"""`gregor dev`: all services on one machine, with an embedded Redis, until Ctrl-C."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path
from secrets import token_urlsafe
from typing import Annotated

import typer

from gregor.cli.errors import CommandError
from gregor.cli.local import opened_store, service_settings
from gregor.cli.state_file import RunningDev, data_directory, remove_running, write_running
from gregor.cli.tables import printable
from gregor.cli.target import Json
from gregor.clock import SystemClock
from gregor.config.secret_files import override_variables, secret_lines
from gregor.config.settings import Settings
from gregor.dev.embedded_redis import EmbeddedRedis
from gregor.dev.fake_providers import NAME as FAKES
from gregor.dev.fake_providers import fake_providers as running_fakes
from gregor.dev.output import line_printer, ready_line, ready_text
from gregor.dev.plan import SERVER_DIRECTORY, DevPlan, DevSecrets, clear_data, locked
from gregor.dev.supervisor import PrintLine, Supervisor

from .keys import SCOPES

KILL_AFTER_S = 5.0
"""Seconds after the end of its drain at which a service is killed."""
SERVER_CHECK_S = 0.5


def dev(
    port_base: Annotated[
        int, typer.Option(min=1, max=65_535, help="First port N: ingest; N+1 WebSocket, N+2 SSE; then probes.")
    ] = 8700,
    gateways: Annotated[int, typer.Option(min=1, max=50, help="How many gateways.")] = 1,
    ingests: Annotated[int, typer.Option(min=1, max=50, help="How many ingest processes.")] = 1,
    data: Annotated[
        Path | None, typer.Option(help="Keep state, secrets and key here (default: in the state directory).")
    ] = None,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Start with an empty state, a new key and new secrets.")
    ] = False,
    redis: Annotated[
        str | None, typer.Option(help="Use this Redis instead of an embedded one; nothing is kept then.")
    ] = None,
    queue: Annotated[str | None, typer.Option(help="Use this Redis for the queues (default: the same).")] = None,
    fake_providers: Annotated[
        bool,
        typer.Option(
            "--fake-providers", help="Send to fakes of APNs, FCM, Web Push and SMTP; each arrival is printed."
        ),
    ] = False,
    as_json: Json = False,
) -> None:
    """Run all services on this machine.

    Prints addresses, a service key, and commands to paste. Ctrl-C stops everything. State, key and secrets are kept
    for the next start with the same ports, unless --fresh or --redis is given.
    """
    given = {"GREGOR_REDIS_URL": redis, "GREGOR_QUEUE_URL": queue}
    settings = service_settings(override_variables(os.environ, given))
    kept = data
    if kept is None and "redis_url" not in settings.model_fields_set:
        kept = data_directory(port_base, os.environ)
    plan = DevPlan(settings, port_base, ingests, gateways, settings.queue_url, token_secret="")
    # Before the lock: "the port is in use" tells a user more than "the data directory is in use".
    plan.check_ports()
    with locked(kept):
        if fresh and kept is not None:
            clear_data(kept)
        secrets = DevSecrets.load(kept)
        if settings.token_secret is not None:
            secrets.token_secret = settings.token_secret.get_secret_value()
        plan = replace(plan, token_secret=secrets.token_secret)
        asyncio.run(_run(plan, secrets, kept, data if fake_providers else None, fake_providers, as_json))


async def _run(
    plan: DevPlan, secrets: DevSecrets, data: Path | None, fakes_data: Path | None, has_fakes: bool, as_json: bool
) -> None:
    """Start everything, print the addresses, wait for a signal, stop everything in order."""
    ending = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, ending.set)
    async with AsyncExitStack() as stack:
        redis = await stack.enter_async_context(_server(plan.settings, data))
        settings = plan.settings.model_copy(update={"redis_url": redis})
        key = await stack.enter_async_context(_service_key(settings, secrets, keep=data is not None))
        if data is not None:
            secrets.save(data)
        if has_fakes:
            fakes = await stack.enter_async_context(running_fakes(fakes_data, terminal_printer([FAKES])))
            plan = replace(plan, fakes=fakes)
        services = plan.services(redis)
        supervisor = Supervisor(services, terminal_printer([service.name for service in services]))
        stack.push_async_callback(supervisor.stop, plan.drain_s + KILL_AFTER_S)
        supervisor.start()
        if not await _until_ready(supervisor, ending):
            return
        _write_state_file(plan, redis, key)
        stack.callback(remove_running, os.getpid(), plan.port_base, os.environ)
        typer.echo(ready_line(plan, redis, key) if as_json else ready_text(plan, redis, key, data))
        await ending.wait()
        # A second Ctrl-C skips the drain.
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, supervisor.kill)


def terminal_printer(names: list[str]) -> PrintLine:
    """Return `line_printer` for texts of users: titles of pushes must not steer the terminal."""
    print_line = line_printer(names)
    return lambda name, line: print_line(name, printable(line))


# The parts of a development server, in the order of their start.


async def _until_ready(supervisor: Supervisor, ending: asyncio.Event) -> bool:
    """Return whether all services became ready; False if a signal came first.

    Raises DevError if one does not start.
    """
    ready = asyncio.create_task(supervisor.wait_ready())
    signalled = asyncio.create_task(ending.wait())
    await asyncio.wait((ready, signalled), return_when=asyncio.FIRST_COMPLETED)
    signalled.cancel()
    if not ready.done():
        ready.cancel()
        return False
    ready.result()
    return True


@asynccontextmanager
async def _server(settings: Settings, data: Path | None) -> AsyncIterator[str]:
    """The URL of the Redis to use: the configured one, else an embedded one that is restarted after a crash."""
    if "redis_url" in settings.model_fields_set:
        yield settings.redis_url
        return
    # On 127.0.0.1 every account of the machine can connect: without a password each would be an administrator.
    with EmbeddedRedis(data=data / SERVER_DIRECTORY if data else None, password=token_urlsafe(24)) as server:
        restarting = asyncio.create_task(_restart_after_crash(server, terminal_printer(["redis"])))
        try:
            yield server.url
        finally:
            restarting.cancel()
            with suppress(asyncio.CancelledError):
                await restarting


async def _restart_after_crash(server: EmbeddedRedis, print_line: PrintLine) -> None:
    """Restart the server on its port whenever it ends by itself."""
    while True:
        await asyncio.sleep(SERVER_CHECK_S)
        if server.pid is None:
            print_line("redis", "ended; restarts")
            server.restart()


@asynccontextmanager
async def _service_key(settings: Settings, secrets: DevSecrets, keep: bool) -> AsyncIterator[str]:
    """A key with all scopes: the kept one if the store still knows it. Unless `keep`, it is deleted at the end."""
    async with opened_store(settings) as store:
        known = secrets.key and await store.access.key(secrets.key.split("_")[1])
        if not known:
            now_us = SystemClock(settings.clock_offset_s).now_us()
            _, secrets.key = await store.access.create_key(SCOPES, name="gregor dev", now_us=now_us)
    key = secrets.key or ""
    try:
        yield key
    finally:
        if not keep:
            with suppress(CommandError):
                async with opened_store(settings) as store:
                    await store.access.delete_key(key.split("_")[1])


def _write_state_file(plan: DevPlan, redis: str, key: str) -> None:
    """Let the other commands find this server. If the directory cannot be written, they need --url and --key."""
    running = RunningDev(
        pid=os.getpid(),
        ingest=plan.ingest_urls[0],
        gateway=plan.gateway_urls[0],
        stream=plan.stream_urls[0],
        redis=redis,
        key=key,
        token_secret=secret_lines(plan.token_secret)[0],
        token_aud=plan.settings.token_aud,
        token_iss=plan.settings.token_iss,
        clock_offset_s=plan.settings.clock_offset_s,
        providers=plan.fakes.environ({}) if plan.fakes is not None else {},
    )
    try:
        write_running(running, plan.port_base, os.environ)
    except (OSError, RuntimeError) as error:
        typer.echo(f"gregor: other commands will need --url and --key ({error})", err=True)
