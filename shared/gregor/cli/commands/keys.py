"""`gregor keys create | list | rotate | delete`: service keys, for backends.

Through the API of a running Gregor where one is known; else in the store that GREGOR_REDIS_URL names, which is how the
first key of a deployment is made.
"""

import asyncio
import json
import os
from collections.abc import Awaitable, Callable
from typing import Annotated, Any, TypeVar
from urllib.parse import quote

import typer

from gregor.cli.errors import Failure
from gregor.cli.local import SCOPES, opened_store
from gregor.cli.state_file import read_running
from gregor.cli.target import Json, Key, Target, Url, find_target
from gregor.clock import SystemClock
from gregor.config.settings import load_settings
from gregor.core.ids import normalize_prefix
from gregor.store.contract.access import ServiceKey
from gregor.store.contract.store import Store

from .users import print_table

keys = typer.Typer(help="Service keys, for backends.", no_args_is_help=True, rich_markup_mode=None)
KeyId = Annotated[str, typer.Argument(metavar="ID", help="Id of the key: the middle part of gk_<id>_<secret>.")]
KEEP_US = 24 * 3_600 * 1_000_000
"""How long the old secret of a rotated key is good (protocol.md, "Who may call")."""
T = TypeVar("T")


@keys.callback()
def _group() -> None:
    """Service keys, for backends."""


@keys.command()
def create(
    scope: Annotated[list[str], typer.Option(help=f"What it may do (repeatable): {', '.join(SCOPES)}.")],
    prefix: Annotated[list[str] | None, typer.Option(help="Limit to a category prefix (repeatable).")] = None,
    rate: Annotated[
        float | None, typer.Option(min=0.001, max=1_000_000, help="Limit to so many messages a second.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="What it is for, for people.")] = None,
    url: Url = None,
    key: Key = None,
    as_json: Json = False,
) -> None:
    """Make a key and print it: the only time that its secret is shown."""
    unknown = [text for text in scope if text not in SCOPES]
    if unknown:
        raise typer.BadParameter(f"{unknown[0]} is no scope; there are {', '.join(SCOPES)}", param_hint="--scope")
    prefixes = [normalize_prefix(text) for text in prefix or ()]
    if None in prefixes:
        raise typer.BadParameter("a prefix is dotted segments, such as user.joined", param_hint="--prefix")
    given = {"scopes": scope, "prefixes": prefixes or None, "rate": rate, "name": name}
    wish = {member: value for member, value in given.items() if value is not None}
    target = _target(url, key)
    if target is None:
        made = _directly(lambda store, now_us: _create(store, wish, now_us))
    else:
        made = target.call("POST", "/v1/keys", body=wish).json()
    typer.echo(json.dumps(made) if as_json else made["key"])


@keys.command("list")
def list_keys(url: Url = None, key: Key = None, as_json: Json = False) -> None:
    """Show all keys, without their secrets."""
    target = _target(url, key)
    answer = _directly(_list) if target is None else target.call("GET", "/v1/keys").json()
    if as_json:
        typer.echo(json.dumps(answer))
        return
    rows = [
        (
            entry["id"],
            ",".join(entry["scopes"]),
            "all" if entry.get("prefixes") is None else ",".join(entry["prefixes"]),
            "-" if entry.get("rate") is None else f"{entry['rate']:g}/s",
            entry.get("name") or "-",
        )
        for entry in answer["keys"]
    ]
    print_table(("ID", "SCOPES", "PREFIXES", "RATE", "NAME"), rows, empty="there are no keys")


@keys.command()
def rotate(key_id: KeyId, url: Url = None, key: Key = None, as_json: Json = False) -> None:
    """Give a key a new secret and print it.

    The old one stays good for 24 hours.
    """
    target = _target(url, key)
    if target is None:
        made = _directly(lambda store, now_us: _rotate(store, key_id, now_us))
    else:
        made = target.call("POST", f"/v1/keys/{quote(key_id, safe='')}/rotate").json()
    typer.echo(json.dumps(made) if as_json else made["key"])


@keys.command()
def delete(key_id: KeyId, url: Url = None, key: Key = None) -> None:
    """Take a key away; it is refused at once. Not an error where there is none."""
    target = _target(url, key)
    if target is None:
        _directly(lambda store, _: store.access.delete_key(key_id))
    else:
        target.call("DELETE", f"/v1/keys/{quote(key_id, safe='')}")


def _target(url: str | None, key: str | None) -> Target | None:
    """The running Gregor to ask, or None where the store itself is to be used."""
    named = url or key or os.environ.get("GREGOR_URL")
    if not named and os.environ.get("GREGOR_REDIS_URL") and not os.environ.get("GREGOR_KEY"):
        return None
    if not named and read_running(os.environ) is None:
        raise Failure("no running Gregor is known: start `gregor dev`, give --url and --key, or set GREGOR_REDIS_URL")
    return find_target(url, key)


def _directly(act: Callable[[Store, int], Awaitable[T]]) -> T:
    """The result of `act` on the store of the settings, at this moment."""
    settings = load_settings(os.environ)

    async def run() -> T:
        async with opened_store(settings) as store:
            return await act(store, SystemClock(settings.clock_offset_s).now_us())

    return asyncio.run(run())


async def _create(store: Store, wish: dict[str, Any], now_us: int) -> dict[str, Any]:
    made, text = await store.access.create_key(**wish, now_us=now_us)
    return {**_shown(made), "key": text}


async def _list(store: Store, _now_us: int) -> dict[str, Any]:
    return {"keys": [_shown(key) for key in await store.access.keys()]}


async def _rotate(store: Store, key_id: str, now_us: int) -> dict[str, Any]:
    text = await store.access.rotate_key(key_id, now_us, KEEP_US)
    found = await store.access.key(key_id)
    if text is None or found is None:
        raise Failure(f"there is no key {key_id}")
    return {**_shown(found), "key": text}


def _shown(key: ServiceKey) -> dict[str, Any]:
    """A key as the API shows it."""
    created = key.created_us / 1_000_000
    shown = {
        "id": key.id,
        "scopes": sorted(key.scopes),
        "prefixes": key.prefixes,
        "rate": key.rate,
        "created": int(created) if created.is_integer() else created,
    }
    return shown if key.name is None else {**shown, "name": key.name}
