"""`gregor keys create | list | rotate | delete`: service keys, for backends.

They open the store if GREGOR_REDIS_URL is set and neither a URL of ingest nor a service key is given: this is how the
first key of a deployment is made. Otherwise they call the API, as the other commands do.
"""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import msgspec
import typer

from gregor.cli.errors import CommandError, missing_services
from gregor.cli.state_file import read_running
from gregor.cli.tables import echo, print_table
from gregor.cli.target import Json, Key, Target, Url, find_target, path_segment
from gregor.cli.times import future_time, utc_text
from gregor.clock import SystemClock
from gregor.core.ids import normalize_prefix
from gregor.core.times import format_time

if TYPE_CHECKING:
    from gregor.store.contract.access import ServiceKey
    from gregor.store.contract.store import Store

keys = typer.Typer(help="Service keys, for backends.", no_args_is_help=True, rich_markup_mode=None)


def _check_id(text: str) -> str:
    if text.startswith("gk_"):
        # Without the text: errors end up in the logs of scripts.
        raise typer.BadParameter(
            "this is a whole service key, with its secret; use its id, between the two underscores"
        )
    return text


KeyId = Annotated[
    str,
    typer.Argument(metavar="ID", help="Id of the key: the middle part of gk_<id>_<secret>.", callback=_check_id),
]
KEEP_US = 24 * 3_600 * 1_000_000
"""How long the old secret of a rotated key stays valid."""
SCOPES = ("ingest", "read", "devices", "deliveries", "categories", "broadcast", "admin")
"""What a service key may be allowed to do (http.md, "Who may call")."""
NAME_WIDTH = 20
"""Characters of a name in a table."""
T = TypeVar("T")


@keys.callback()
def _group() -> None:
    """Service keys, for backends."""


@keys.command()
def create(
    scope: Annotated[list[str], typer.Option(help=f"What the key allows (repeatable): {', '.join(SCOPES)}.")],
    prefix: Annotated[list[str] | None, typer.Option(help="Limit to a category prefix (repeatable).")] = None,
    rate: Annotated[
        float | None, typer.Option(min=0.001, max=1_000_000, help="Limit to this many messages per second.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="A note for people, such as the name of the backend.")] = None,
    system: Annotated[list[str] | None, typer.Option(help="Limit to an external system (repeatable).")] = None,
    expires: Annotated[str | None, typer.Option(help="When the key stops working: +90d, or Unix seconds.")] = None,
    address: Annotated[
        list[str] | None, typer.Option(help="Limit to an address or network, such as 192.0.2.0/24 (repeatable).")
    ] = None,
    url: Url = None,
    key: Key = None,
    as_json: Json = False,
) -> None:
    """Create a key and print it. Its secret is shown only this once."""
    unknown = [text for text in scope if text not in SCOPES]
    if unknown:
        raise typer.BadParameter(
            f"{unknown[0]} is not a scope; the scopes are {', '.join(SCOPES)}", param_hint="--scope"
        )
    prefixes = [normalize_prefix(text) for text in prefix or ()]
    if None in prefixes:
        raise typer.BadParameter("a prefix consists of dotted segments, such as user.joined", param_hint="--prefix")
    given = {
        "scopes": scope,
        "prefixes": prefixes or None,
        "rate": rate,
        "name": name,
        "systems": system,
        "expires": None if expires is None else future_time(expires, "--expires", time.time()),
        "addresses": address,
    }
    wish = {member: value for member, value in given.items() if value is not None}
    target = _target(url, key)
    if target is None:
        made = _directly(lambda store, now_us: _create(store, wish, now_us))
    else:
        made = target.call("POST", "/v1/keys", body=wish)
    echo(json.dumps(made) if as_json else made["key"])


@keys.command("list")
def list_keys(url: Url = None, key: Key = None, as_json: Json = False) -> None:
    """List all keys, without their secrets."""
    target = _target(url, key)
    answer = _directly(_list) if target is None else target.call("GET", "/v1/keys")
    if as_json:
        echo(json.dumps(answer))
        return
    head = ("ID", "NAME", "EXPIRES (UTC)", "LAST USED (UTC)", "CREATED (UTC)", "SCOPES", "LIMITS")
    print_table(head, map(_row, answer["keys"]), empty="there are no keys")


def _row(entry: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the table cells of a key. A usual row fits into 120 columns; `--json` prints full times and names."""
    name, scopes = entry.get("name") or "-", entry["scopes"]
    limits = [
        f"{label}={value}"
        for label, member in (("prefix", "prefixes"), ("system", "systems"), ("address", "addresses"))
        for value in entry.get(member) or ()
    ]
    lists = {"categories": entry.get("prefixes"), "systems": entry.get("systems")}
    nothing = [noun for noun, allowed in lists.items() if allowed is not None and not allowed]
    if nothing:
        limits.append(", ".join(f"no {noun}" for noun in nothing))
    if entry.get("rate") is not None:
        limits.append(f"rate={entry['rate']:g}/s")
    return (
        entry["id"],
        name if len(name) <= NAME_WIDTH else f"{name[: NAME_WIDTH - 1]}…",
        "never" if entry.get("expires") is None else _minute_text(entry["expires"]),
        _minute_text(entry.get("last_used")),
        _minute_text(entry.get("created")).partition(" ")[0],
        "all" if set(scopes) == set(SCOPES) else ",".join(scopes),
        " ".join(limits) or "-",
    )


def _minute_text(seconds: float | None) -> str:
    return utc_text(seconds).rpartition(":")[0] or "-"


@keys.command()
def rotate(key_id: KeyId, url: Url = None, key: Key = None, as_json: Json = False) -> None:
    """Give a key a new secret and print it.

    The old secret stays valid for 24 hours.
    """
    target = _target(url, key)
    if target is None:
        made = _directly(lambda store, now_us: _rotate(store, key_id, now_us))
    else:
        try:
            made = target.call("POST", f"/v1/keys/{path_segment(key_id)}/rotate")
        except CommandError as error:
            if error.problem is None or error.problem.get("code") != "not_found":
                raise
            raise CommandError(str(_unknown(key_id)), error.problem) from error
    echo(json.dumps(made) if as_json else made["key"])


@keys.command()
def delete(key_id: KeyId, url: Url = None, key: Key = None) -> None:
    """Delete a key; it is refused from then on."""
    target = _target(url, key)
    if target is None:
        _directly(lambda store, now_us: _delete(store, key_id, now_us))
        echo(f"{key_id} is deleted")
        return
    # The API deletes an unknown key without an error, so that a repeat is harmless; a person wants to know.
    if key_id not in {entry["id"] for entry in target.call("GET", "/v1/keys")["keys"]}:
        raise _unknown(key_id)
    target.call("DELETE", f"/v1/keys/{path_segment(key_id)}")
    echo(f"{key_id} is deleted")
    if target.key.startswith(f"gk_{key_id}_"):
        echo("gregor: warning: this was the key of this command; give another one from now on", err=True)


# Through the API, or directly on the store.


def _target(url: str | None, key: str | None) -> Target | None:
    """Return the running Gregor to call, or None to open the store directly."""
    named = url or key or os.environ.get("GREGOR_URL")
    has_redis = os.environ.get("GREGOR_REDIS_URL") or os.environ.get("GREGOR_REDIS_URL_FILE")
    has_key = os.environ.get("GREGOR_KEY") or os.environ.get("GREGOR_KEY_FILE")
    if not named and has_redis and not has_key:
        return None
    if not named and read_running(os.environ) is None:
        if has_redis:
            raise CommandError("a service key needs an ingest: name it with --url, or unset GREGOR_KEY to use Redis")
        raise CommandError(
            "no running Gregor is known: start `gregor dev`, give --url and --key, or set GREGOR_REDIS_URL"
        )
    return find_target(url, key)


def _directly(act: Callable[[Store, int], Awaitable[T]]) -> T:
    """Return the result of `act` on the store of the settings, at this moment."""
    try:
        # Imported here: the store belongs to the services, and a thin installation has only the API.
        from gregor.cli.local import opened_store, service_settings
    except ModuleNotFoundError as error:
        raise missing_services("gregor keys without a running Gregor") from error
    settings = service_settings(os.environ)

    async def run() -> T:
        async with opened_store(settings) as store:
            return await act(store, SystemClock(settings.clock_offset_s).now_us())

    return asyncio.run(run())


async def _create(store: Store, wish: dict[str, Any], now_us: int) -> dict[str, Any]:
    from gregor.store.service_keys import audit_target

    expires = wish.pop("expires", None)
    expires_us = None if expires is None else round(expires * 1_000_000)
    try:
        made, text = await store.access.create_key(**wish, expires_us=expires_us, now_us=now_us)
    except ValueError as error:
        raise CommandError(str(error)) from error
    await _record(store, "createKey", {**audit_target(made), "created": made.id}, now_us)
    return {**_document(made), "key": text}


async def _list(store: Store, _now_us: int) -> dict[str, Any]:
    uses = await store.access.key_uses()
    return {"keys": [_document(key, uses.get(key.id)) for key in await store.access.keys()]}


async def _delete(store: Store, key_id: str, now_us: int) -> None:
    if await store.access.key(key_id) is None:
        raise _unknown(key_id)
    await store.access.delete_key(key_id)
    await _record(store, "deleteKey", {"key": key_id}, now_us)


def _unknown(key_id: str) -> CommandError:
    return CommandError(f"unknown key {key_id}; `gregor keys list` shows the ids")


async def _rotate(store: Store, key_id: str, now_us: int) -> dict[str, Any]:
    from gregor.store.service_keys import rotation_fault

    before = await store.access.key(key_id)
    if before is not None and (fault := rotation_fault(before, now_us)) is not None:
        raise CommandError(fault)
    text = await store.access.rotate_key(key_id, now_us, KEEP_US)
    found = await store.access.key(key_id)
    if text is None or found is None:
        raise _unknown(key_id)
    await _record(store, "rotateKey", {"key": key_id}, now_us)
    return {**_document(found), "key": text}


async def _record(store: Store, act: str, target: dict[str, str], now_us: int) -> None:
    """Append the event that ingest appends for the same act, with the command line as its actor."""
    from gregor.store.contract.access import CLI_ACTOR, DONE, AuditEvent
    from gregor.store.contract.store import Unavailable

    at = msgspec.Raw(format_time(now_us))
    event = AuditEvent(
        at=at, key=CLI_ACTOR, act=act, target=target, outcome=DONE, request_id=secrets.token_hex(8), client=None
    )
    try:
        await store.access.append_audit(msgspec.json.encode(event))
    except Unavailable as error:
        # The act is done, and the text of a new key cannot be shown again.
        echo(f"gregor: warning: the act is done, but the audit trail does not have it: {error}", err=True)


def _seconds(us: int | None) -> float | None:
    seconds = None if us is None else us / 1_000_000
    return int(seconds) if seconds is not None and seconds.is_integer() else seconds


def _document(key: ServiceKey, used_us: int | None = None) -> dict[str, Any]:
    """Return a key in the form of the API."""
    document = {
        "id": key.id,
        "scopes": sorted(key.scopes),
        "prefixes": key.prefixes,
        "rate": key.rate,
        "created": _seconds(key.created_us),
        "systems": key.systems,
        "expires": _seconds(key.expires_us),
        "addresses": key.addresses,
        "last_used": _seconds(used_us),
    }
    return document if key.name is None else {**document, "name": key.name}
