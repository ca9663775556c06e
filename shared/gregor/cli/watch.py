"""`gregor watch`: a live device in the terminal, or (`--observe`) an onlooker that is no device."""

import asyncio
import json
import os
from collections.abc import AsyncIterator
from dataclasses import asdict
from typing import Annotated, Any
from urllib.parse import urlsplit, urlunsplit

import httpx
import typer

from gregor.client.changes import (
    Change,
    Created,
    Dismissed,
    ExternalGap,
    ExternalReceived,
    FlushAnnounced,
    MessageRefused,
    Reminded,
    Stopped,
)
from gregor.client.changes import Synced as SyncedChange
from gregor.client.device import Device
from gregor.client.mirror import Mirror
from gregor.core.close_codes import CloseCode
from gregor.core.ids import is_name, is_user_id, name_error, user_id_error

from .commands.token import mint_token
from .commands.users import User, item_row
from .errors import Failure
from .state_file import read_running
from .target import Json, Key, Url, find_target, is_header_text

TOKEN_LIVES_S = 86_400
LOOK_S = 1.0
"""How often a lost connection is looked for: longer than a reconnect takes where all is well."""


def watch(
    user: User,
    device: Annotated[str, typer.Option(help="Which device to be.")] = "terminal",
    token: Annotated[str | None, typer.Option(help="Device token; else one is minted (development).")] = None,
    gateway: Annotated[str | None, typer.Option(help="URL of a gateway, ws:// or wss://.")] = None,
    observe: Annotated[
        bool, typer.Option("--observe", help="Look on: no presence, no ack (needs a service key).")
    ] = False,
    stream: Annotated[str | None, typer.Option(help="URL of a gateway's streams, for --observe.")] = None,
    url: Url = None,
    key: Key = None,
    as_json: Json = False,
) -> None:
    """Show what happens to a user's state; Ctrl-C ends it.

    As one of the user's devices, or (--observe) looking on. A line each: `+` an item came, `-` it left, `!` it reminds,
    `>` another system's message, `=` in step with the server.
    """
    _check_url("--gateway", gateway, "ws")
    _check_url("--stream", stream, "http")
    if not is_user_id(user):
        raise typer.BadParameter(user_id_error(user), param_hint="USER")
    if not is_name(device):
        raise typer.BadParameter(name_error(device), param_hint="--device")
    if token is not None and not is_header_text(token):
        raise typer.BadParameter("a token is letters, digits, _ - and dots", param_hint="--token")
    if observe:
        asyncio.run(_observe(user, _place(stream, "stream", 2, "http", url), url, key, as_json))
    else:
        token = token or mint_token(user, device, TOKEN_LIVES_S)
        asyncio.run(_watch(_place(gateway, "gateway", 1, "ws", url), token, device, as_json))


async def _watch(url: str, token: str, name: str, as_json: bool) -> None:
    async with Device(url, token, device=name, foreground=True) as device:
        telling = asyncio.create_task(_tell_trouble(device, url))
        try:
            async for change in device.changes():
                if as_json or not isinstance(change, Stopped):  # people read of the end once, on stderr
                    typer.echo(_as_json(change) if as_json else in_words(change))
                if isinstance(change, Created | Reminded | SyncedChange):
                    device.ack()  # a line on the terminal is what "shown to the user" means here
                if isinstance(change, Stopped):
                    raise Failure(_end_in_words(change))
        finally:
            telling.cancel()


def _end_in_words(stopped: Stopped) -> str:
    words = f"the gateway closed for good: {stopped.code} {stopped.reason}"
    if stopped.code not in (CloseCode.TOKEN_EXPIRED, CloseCode.UNAUTHORISED):
        return words
    return words + "; it takes this token no more (a gregor dev that was started anew takes none of before): watch anew"


async def _tell_trouble(device: Device, url: str) -> None:
    """Say on stderr, once for each kind, why there is no connection; the device goes on trying."""
    told: str | None = None
    while True:
        await asyncio.sleep(LOOK_S)
        trouble = None if device.is_synced else device.last_error
        if trouble is not None and trouble != told:
            typer.echo(f"gregor: no connection to {url} ({trouble}); trying again", err=True)
        told = trouble


async def _observe(user: str, stream: str, url: str | None, key: str | None, as_json: bool) -> None:
    target = find_target(url, key)
    ticket = target.call("POST", "/v1/tickets", body={"uid": user, "observe": True}).json()["ticket"]
    mirror = Mirror()
    async for frame in _frames(stream, ticket):
        for change in mirror.apply(frame):
            typer.echo(_as_json(change) if as_json else in_words(change))
        if mirror.needs_full:
            raise Failure("what was seen differs from what the server has: watch anew")
        if "close" in frame:
            raise Failure(f"the gateway closed: {frame['close']['code']} {frame['close']['reason']}")


async def _frames(stream: str, ticket: str) -> AsyncIterator[dict[str, Any]]:
    """The frames of a stream, until it ends."""
    try:
        async with (
            httpx.AsyncClient(timeout=httpx.Timeout(10, read=60)) as client,
            client.stream("GET", f"{stream}/v1/stream", params={"ticket": ticket}) as answer,
        ):
            if answer.status_code != 200:
                raise Failure(f"{stream} answered {answer.status_code}")
            async for line in answer.aiter_lines():
                if line.startswith("data:"):
                    yield json.loads(line[5:])
    except httpx.HTTPError as error:
        raise Failure(f"{stream}: the stream ended: {error or type(error).__name__}") from error


def _check_url(option: str, url: str | None, scheme: str) -> None:
    """BadParameter where a URL is none that can ever be reached: trying again would not help."""
    if url is not None and not (url.startswith((f"{scheme}://", f"{scheme}s://")) and urlsplit(url).hostname):
        raise typer.BadParameter(f"write {scheme}://host:port or {scheme}s://host", param_hint=option)


def _place(given: str | None, member: str, offset: int, scheme: str, url: str | None) -> str:
    """Where the gateway is: as given, as `gregor dev` left it, or at its usual distance from the port of ingest."""
    if given:
        return given.rstrip("/")
    running = read_running(os.environ)
    ingest = url or os.environ.get("GREGOR_URL")
    if running and (ingest is None or ingest.rstrip("/") == running.ingest):
        return str(getattr(running, member))
    if ingest is None:
        raise Failure(f"no running Gregor is known: start `gregor dev`, or name a gateway with --{member}")
    parts = urlsplit(ingest)
    if parts.port is None:
        raise Failure(f"name the gateway with --{member}: {ingest} does not tell")
    secure = "s" if parts.scheme == "https" else ""
    return urlunsplit((scheme + secure, f"{parts.hostname}:{parts.port + offset}", "", "", ""))


def in_words(change: Change) -> str:
    """One change as one line for people: `+` entered, `-` left, `!` reminder, `=` in step with the server."""
    match change:
        case Created():
            return "+ " + "  ".join(item_row(change.id, change.item))
        case Dismissed():
            return f"- {change.id}" + (f"  ({change.reason})" if change.reason else "")
        case Reminded():
            return "! " + "  ".join(item_row(change.id, change.item))
        case ExternalReceived():
            return f"> {change.system}  {json.dumps(change.body, ensure_ascii=False)}"
        case SyncedChange():
            return f"= {change.kind}" + ("" if change.is_proven else ", but the copies differ: fetching a new one")
        case FlushAnnounced():
            return f"~ flush: a full copy comes within {change.spread_s:g} s"
        case ExternalGap():
            return "> external messages were missed: subsystems reload"
        case MessageRefused():
            return f"x refused: {change.problem.get('code')}"
        case Stopped():
            return f"x closed: {change.code} {change.reason}"
        case _:
            return f"x {type(change).__name__}"


def _as_json(change: Change) -> str:
    return json.dumps({"change": type(change).__name__} | asdict(change), ensure_ascii=False)
