"""`gregor dev`: everything on one machine, with a Redis-protocol server of its own, until Ctrl-C."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from gregor.cli.errors import Failure
from gregor.cli.local import SCOPES, opened_store
from gregor.cli.state_file import Running, remove_running, write_running
from gregor.cli.target import Json
from gregor.clock import SystemClock
from gregor.config.settings import Settings, load_settings
from gregor.dev.embedded_redis import EmbeddedServer
from gregor.dev.fake_providers import NAME as FAKES
from gregor.dev.fake_providers import fake_providers as running_fakes
from gregor.dev.output import ready_line, ready_words, teller
from gregor.dev.plan import Plan, Secrets, held
from gregor.dev.supervisor import Supervisor

PATIENCE_S = 5.0
"""How much longer than its drain a service may take to end, before it is killed."""
SERVER_LOOK_S = 0.5
Tell = Callable[[str, str], None]


def dev(
    port_base: Annotated[
        int, typer.Option(min=1, max=65_535, help="First port N: ingest; N+1 WebSocket, N+2 SSE; then probes.")
    ] = 8700,
    gateways: Annotated[int, typer.Option(min=1, max=50, help="How many gateways.")] = 1,
    ingests: Annotated[int, typer.Option(min=1, max=50, help="How many ingest processes.")] = 1,
    data: Annotated[Path | None, typer.Option(help="Keep state, secrets and key in this directory.")] = None,
    redis: Annotated[str | None, typer.Option(help="Use this Redis, in place of one of our own.")] = None,
    queue: Annotated[str | None, typer.Option(help="Use this Redis for queues; else the one of the state.")] = None,
    fake_providers: Annotated[
        bool, typer.Option("--fake-providers", help="Send to fakes of APNs, FCM, Web Push and mail; see it arrive.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Run everything on this machine.

    Prints addresses, a service key, and commands to paste; Ctrl-C ends it all.
    """
    given = {"GREGOR_REDIS_URL": redis, "GREGOR_QUEUE_URL": queue}
    settings = load_settings(os.environ | {name: value for name, value in given.items() if value is not None})
    with held(data):
        made = Secrets.load(data)
        if settings.token_secret is not None:
            made.token_secret = settings.token_secret.get_secret_value()
        plan = Plan(settings, port_base, ingests, gateways, settings.queue_url, made.token_secret)
        plan.check_ports()
        asyncio.run(_run(plan, made, data, fake_providers, as_json))


async def _run(plan: Plan, made: Secrets, data: Path | None, has_fakes: bool, as_json: bool) -> None:
    """Start all, say so, wait for a signal, end all in order."""
    ending = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, ending.set)
    async with AsyncExitStack() as stack:
        redis = await stack.enter_async_context(_server(plan.settings, data))
        settings = plan.settings.model_copy(update={"redis_url": redis})
        key = await stack.enter_async_context(_service_key(settings, made, keep=data is not None))
        if data is not None:
            made.save(data)
        if has_fakes:
            plan = replace(plan, fakes=await stack.enter_async_context(running_fakes(data, teller([FAKES]))))
        services = plan.services(redis)
        supervisor = Supervisor(services, teller([service.name for service in services]))
        stack.push_async_callback(supervisor.stop, plan.drain_s + PATIENCE_S)
        supervisor.start()
        if not await _until_ready(supervisor, ending):
            return
        _leave_word(plan, redis, key)
        stack.callback(remove_running, os.getpid(), os.environ)
        typer.echo(ready_line(plan, redis, key) if as_json else ready_words(plan, redis, key))
        await ending.wait()
        # Whoever asks a second time does not want to wait for the drain.
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, supervisor.kill)


async def _until_ready(supervisor: Supervisor, ending: asyncio.Event) -> bool:
    """Whether all became ready; False where a signal came first. Failure where they do not become so."""
    ready = asyncio.create_task(supervisor.wait_ready())
    told = asyncio.create_task(ending.wait())
    await asyncio.wait((ready, told), return_when=asyncio.FIRST_COMPLETED)
    told.cancel()
    if not ready.done():
        ready.cancel()
        return False
    ready.result()
    return True


@asynccontextmanager
async def _server(settings: Settings, data: Path | None) -> AsyncIterator[str]:
    """URL of the Redis to use: the one that is named, else one of our own, started again where it dies."""
    if "redis_url" in settings.model_fields_set:
        yield settings.redis_url
        return
    with EmbeddedServer(data=data / "server" if data else None) as server:
        keeping = asyncio.create_task(_keep(server, teller(["redis"])))
        try:
            yield server.url
        finally:
            keeping.cancel()
            with suppress(asyncio.CancelledError):
                await keeping


async def _keep(server: EmbeddedServer, tell: Tell) -> None:
    """Start the server again, on its port, where it ends by itself."""
    while True:
        await asyncio.sleep(SERVER_LOOK_S)
        if server.pid is None:
            tell("redis", "ended; starts again")
            server.restart()


@asynccontextmanager
async def _service_key(settings: Settings, made: Secrets, keep: bool) -> AsyncIterator[str]:
    """A key with all scopes: the one kept from before where the store still knows it; one not kept goes at the end."""
    async with opened_store(settings) as store:
        known = made.key and await store.access.key(made.key.split("_")[1])
        if not known:
            now_us = SystemClock(settings.clock_offset_s).now_us()
            _, made.key = await store.access.create_key(SCOPES, name="gregor dev", now_us=now_us)
    key = made.key or ""
    try:
        yield key
    finally:
        if not keep:
            with suppress(Failure):
                async with opened_store(settings) as store:
                    await store.access.delete_key(key.split("_")[1])


def _leave_word(plan: Plan, redis: str, key: str) -> None:
    """Leave for the other commands where we are. They can do without: a directory that cannot be written is no end."""
    running = Running(
        pid=os.getpid(),
        ingest=plan.ingest_urls[0],
        gateway=plan.gateway_urls[0],
        stream=plan.stream_urls[0],
        redis=redis,
        key=key,
        token_secret=plan.token_secret,
        token_aud=plan.settings.token_aud,
        token_iss=plan.settings.token_iss,
        clock_offset_s=plan.settings.clock_offset_s,
        providers=plan.fakes.environ({}) if plan.fakes is not None else {},
    )
    try:
        write_running(running, os.environ)
    except (OSError, RuntimeError) as error:
        typer.echo(f"gregor: other commands will need --url and --key ({error})", err=True)
