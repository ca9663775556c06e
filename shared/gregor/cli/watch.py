"""`gregor watch`: a live device in the terminal, or (`--observe`) a read-only observer that is not a device."""

import asyncio
import json
import os
import sys
import time
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import asdict
from typing import Annotated, Any

import httpx
import jwt
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
    Synced,
)
from gregor.client.device import Device
from gregor.client.mirror import Mirror
from gregor.core.close_codes import CloseCode
from gregor.core.ids import is_name, is_user_id, name_error, user_id_error
from gregor.core.json_text import decode_published
from gregor.net.bounded_responses import UNCOMPRESSED, ResponseTooLong
from gregor.net.outgoing.http_clients import async_client

from .commands.backend import User
from .commands.token import mint_token
from .environment import now_s
from .errors import CommandError
from .responses import line_splitter, refuse_compressed, too_long
from .tables import body_text, counted, printable
from .target import (
    Json,
    Key,
    Url,
    check_url,
    find_target,
    is_header_text,
    stream_url,
    websocket_url,
)
from .times import clock_text

TOKEN_LIFETIME_S = 86_400
HEAD_S = 30.0
"""Time for the head of a stream, with the connection."""
SILENCE_S = 60.0
"""Maximum time between two parts of a stream: the gateway sends a heartbeat after 25 s."""
CHECK_S = 1.0
"""Interval at which a lost connection is noticed: longer than a normal reconnect takes."""
_COLOURS = {"+": 32, "-": 31, "!": 33, ">": 36, "=": 34, "~": 35, "x": 31}
_SYNC_TEXTS = {"full": "full copy", "delta": "missed changes applied", "unchanged": "nothing missed"}


def watch(
    user: User,
    device: Annotated[str, typer.Option(help="The device to be.")] = "terminal",
    token: Annotated[str | None, typer.Option(help="Device token (default: minted, for development).")] = None,
    gateway: Annotated[str | None, typer.Option(help="URL of a gateway, ws:// or wss://.")] = None,
    observe: Annotated[
        bool, typer.Option("--observe", help="Only read: no presence, no ack (needs a service key).")
    ] = False,
    stream: Annotated[str | None, typer.Option(help="URL of a gateway's streams, for --observe.")] = None,
    url: Url = None,
    key: Key = None,
    as_json: Json = False,
) -> None:
    """Show each change of a user's state as it happens; Ctrl-C ends it.

    The command acts as a device of the user, or only reads (--observe). Each line has the time, a sign and the badge.
    The signs are `+` created, `-` dismissed or expired, `!` reminder, `>` message of another system, `=` synchronized
    with the server.
    """
    check_url("--gateway", gateway, "ws")
    check_url("--stream", stream, "http")
    if not is_user_id(user):
        raise typer.BadParameter(user_id_error(user), param_hint="USER")
    if not is_name(device):
        raise typer.BadParameter(name_error(device), param_hint="--device")
    if token is not None and (not is_header_text(token) or token.count(".") != 2):
        raise typer.BadParameter("a device token is a JWT: three parts, separated by dots", param_hint="--token")
    if observe:
        asyncio.run(_observe(user, stream_url(stream, url), url, key, as_json))
    else:
        gateway_url = websocket_url(gateway, url)
        if token is None:
            mint_token(user, device, TOKEN_LIFETIME_S)  # fail now rather than in the loop if no secret is known
        else:
            user, device = _identity(token, user, device)
        asyncio.run(_watch(gateway_url, user, token, device, as_json))


# As a device.


def _identity(token: str, user: str, device: str) -> tuple[str, str]:
    """Return the user and the device in a token: the gateway uses these, not the arguments."""
    try:
        claims = jwt.decode(token, options={"verify_signature": False})
    except jwt.InvalidTokenError:
        return user, device  # the gateway refuses the token and gives the reason
    return str(claims.get("sub", user)), str(claims.get("device", device))


async def _watch(url: str, user: str, token: str | None, name: str, as_json: bool) -> None:
    # Minted for each connection: a restarted `gregor dev` with a new secret accepts the next one.
    source = token if token is not None else (lambda: _mint_again(user, name))
    async with Device(url, source, device=name, foreground=True) as device:
        connection = _ConnectionReport(device, url)
        reporting = asyncio.create_task(connection.run())
        is_first = True
        try:
            changes = device.changes()
            async for change in changes:
                batch = [change, *changes.take_pending()]
                if any(isinstance(each, Synced) for each in batch):
                    connection.report_return()
                    if is_first and not as_json:
                        typer.echo(printable(f"connected to {url} as {user}/{name}; Ctrl-C ends it"))
                _print_changes(batch, device.badge, len(device.state), as_json, has_copy=not is_first)
                is_first = is_first and not any(isinstance(each, Synced) for each in batch)
                if any(isinstance(each, Created | Reminded | Synced) for each in batch):
                    device.ack()  # the user of a terminal has seen what it printed
                if isinstance(batch[-1], Stopped):
                    raise CommandError(_stopped_text(batch[-1]))
        finally:
            reporting.cancel()


def _mint_again(user: str, name: str) -> str:
    try:
        return mint_token(user, name, TOKEN_LIFETIME_S)
    except CommandError as error:  # the Device tries again: its next attempt may find a restarted `gregor dev`
        raise OSError("gregor dev is not running") from error


def _stopped_text(stopped: Stopped) -> str:
    text = f"the gateway closed the connection for good: {stopped.code} {stopped.reason}"
    if stopped.code not in (CloseCode.TOKEN_EXPIRED, CloseCode.UNAUTHORISED):
        return text
    return text + "; the token is expired or signed with another secret: run gregor watch again with a new one"


class _ConnectionReport:
    """Reports each loss of the connection, with its reason, and its return. The device itself keeps trying."""

    def __init__(self, device: Device, url: str) -> None:
        self._device = device
        self._url = url
        self._reported: str | None = None

    async def run(self) -> None:
        """Report losses until cancelled."""
        while True:
            await asyncio.sleep(CHECK_S)
            reason = self._device.last_error
            if self._device.is_synced or reason is None or reason == self._reported:
                continue
            why = printable(reason.removeprefix("1006 "))
            typer.echo(f"gregor: no connection to {self._url} ({why}); trying again", err=True)
            self._reported = reason

    def report_return(self) -> None:
        """Report that the device is synchronized, if a loss was reported."""
        if self._reported is not None:
            typer.echo("gregor: connected again", err=True)
            self._reported = None


# As an observer.


async def _observe(user: str, stream: str, url: str | None, key: str | None, as_json: bool) -> None:
    target = find_target(url, key)
    ticket = target.call("POST", "/v1/tickets", body={"uid": user, "observe": True})["ticket"]
    mirror = Mirror()
    if not as_json:
        typer.echo(f"observing {user} at {stream}; Ctrl-C ends it")
    async for frame in _frames(stream, ticket):
        has_copy = mirror.cursor is not None
        changes, now_us = mirror.apply(frame), round(now_s() * 1e6)
        _print_changes(changes, mirror.badge(now_us), len(mirror.visible(now_us)), as_json, has_copy=has_copy)
        if mirror.needs_full:
            raise CommandError("the observed state differs from the server's: run gregor watch again")
        if "close" in frame:
            raise CommandError(f"the gateway closed: {frame['close']['code']} {frame['close']['reason']}")


async def _frames(stream: str, ticket: str) -> AsyncIterator[dict[str, Any]]:
    """Yield the frames of a stream, until it ends."""
    try:
        split = line_splitter()
        async for chunk in _parts(stream, ticket):
            for line in split.feed(chunk):
                if line.startswith(b"data:"):
                    yield decode_published(line[5:])
    except ResponseTooLong as error:
        raise too_long(stream) from error
    except (ValueError, RecursionError) as error:
        raise CommandError(f"{stream} sent an event that is not JSON: is it Gregor?") from error
    except (httpx.HTTPError, TimeoutError) as error:
        raise CommandError(f"{stream}: the stream ended: {str(error) or type(error).__name__}") from error


async def _parts(stream: str, ticket: str) -> AsyncIterator[bytes]:
    """Yield the parts of a stream. Raises TimeoutError if its head, or the next part, does not arrive in time."""
    async with async_client(timeout=httpx.Timeout(SILENCE_S, connect=10)) as client:
        request = client.build_request("GET", f"{stream}/v1/stream", params={"ticket": ticket}, headers=UNCOMPRESSED)
        async with asyncio.timeout(HEAD_S):
            response = await client.send(request, stream=True)
        async with aclosing(response):
            if response.status_code != 200:
                raise CommandError(f"{stream} answered {response.status_code}")
            refuse_compressed(response)
            parts = response.aiter_raw()
            while part := await _next(parts):
                yield part


async def _next(parts: AsyncIterator[bytes]) -> bytes:
    async with asyncio.timeout(SILENCE_S):
        return await anext(parts, b"")


# Lines.


def _print_changes(changes: list[Change], badge: int, count: int, as_json: bool, *, has_copy: bool) -> None:
    """Print changes that arrived together. `has_copy`: whether there was a copy before them."""
    for change in changes if as_json else _shown(changes, has_copy):
        typer.echo(_as_json(change) if as_json else line_of(change, badge, count))


def _shown(changes: list[Change], has_copy: bool) -> list[Change]:
    """Return the changes to print: all, except what only follows from a full copy that replaces another one.

    The items that such a copy lacks were not dismissed, and after a reset no external message was lost.
    """
    full = next((change for change in changes if isinstance(change, Synced) and change.kind == "full"), None)
    shown: list[Change] = [each for each in changes if not isinstance(each, Stopped)]  # reported once, as the error
    if full is None or not has_copy:
        return shown
    return [full, *(each for each in shown if each is not full and not isinstance(each, Dismissed | ExternalGap))]


def line_of(change: Change, badge: int, count: int) -> str:
    """Return a change as one line with time and badge, coloured on a terminal."""
    text = printable(change_text(change))
    if isinstance(change, Synced):
        text += f"; {counted(count, 'item', 'items')}"
    if isinstance(change, Created | Dismissed | Synced):
        text += f"  [badge {badge}]"
    if sys.stdout.isatty() and "NO_COLOR" not in os.environ:
        text = f"\x1b[{_COLOURS[text[0]]}m{text}\x1b[0m"
    return f"{clock_text(time.time())}  {text}"


def change_text(change: Change) -> str:
    """Return a change as text, after its sign."""
    match change:
        case Created():
            return "+ " + _item_text(change.id, change.item)
        case Dismissed():
            return f"- {change.id}  {change.reason or 'dismissed'}"
        case Reminded():
            return "! " + _item_text(change.id, change.item)
        case ExternalReceived():
            return f"> {change.system}  {json.dumps(change.body, ensure_ascii=False)}"
        case Synced():
            text = f"= synchronized: {_SYNC_TEXTS.get(change.kind, change.kind)}"
            return text + ("" if change.is_proven else ", but the digest differed: replaced by a full copy")
        case FlushAnnounced():
            return f"~ new epoch: a full copy follows within {change.spread_s:g} s"
        case ExternalGap():
            return "> external messages were lost: subsystems reload"
        case MessageRefused():
            return f"x refused: {change.problem.get('code')}"
        case Stopped():
            return f"x closed: {change.code} {change.reason}"
        case _:
            return f"x {type(change).__name__}"


def _item_text(item_id: str, item: dict[str, Any]) -> str:
    device = f"  for {item['for_device']}" if item["for_device"] else ""
    return f"{item_id}  {item['category']}{device}  {body_text(item)}"


def _as_json(change: Change) -> str:
    return printable(json.dumps({"change": type(change).__name__} | asdict(change), ensure_ascii=False))
