"""`gregor send | state | history | devices`: what a backend does through the API, by hand."""

import json
import os
import re
import secrets
from collections.abc import Iterable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from math import isfinite
from typing import Annotated, Any
from urllib.parse import quote

import typer

from gregor.cli.errors import Failure
from gregor.cli.target import Json, Key, Url, find_target, now_s, past_moment
from gregor.client.messages import dismissal, snoozed
from gregor.config.settings import parse_duration
from gregor.core.errors import Problem
from gregor.core.json_text import decode_json
from gregor.core.limits import Limits

User = Annotated[str, typer.Argument(metavar="USER", help="The user.")]
Prefixes = Annotated[list[str] | None, typer.Option("--category-prefix", help="Only under this prefix (repeatable).")]


def send(
    user: User,
    category: Annotated[str | None, typer.Option(help="Create an item of this category.")] = None,
    body: Annotated[str | None, typer.Option(help="JSON of the item, or of the external message.")] = None,
    item_id: Annotated[str | None, typer.Option("--id", help="Id of the item; random where not given.")] = None,
    for_device: Annotated[
        str | None, typer.Option(help="A device, or `*`: each device dismisses it for itself.")
    ] = None,
    expires: Annotated[str | None, typer.Option(help="When it ends: +1h, +90 (from now), or Unix seconds.")] = None,
    remind: Annotated[list[str] | None, typer.Option(help="When to remind, likewise (repeatable).")] = None,
    dismiss: Annotated[list[str] | None, typer.Option(help="Dismiss this id (repeatable).")] = None,
    dismiss_category: Annotated[str | None, typer.Option(help="Dismiss all items of this category.")] = None,
    dismiss_prefix: Annotated[str | None, typer.Option(help="Dismiss all items under this category prefix.")] = None,
    system: Annotated[str, typer.Option(help="Another system than gregor: an external message.")] = "gregor",
    not_before: Annotated[str | None, typer.Option(help="Accepted now, done then: +2h, or Unix seconds.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what it would do, who would be told.")] = False,
    url: Url = None,
    key: Key = None,
    as_json: Json = False,
) -> None:
    """Send a message: create an item, or dismiss.

    It creates an item (--category), dismisses (--dismiss and the like), or tells another system (--system).
    """
    content = parse_json(body, "--body")
    create = _creation(category, item_id, content, for_device, expires, remind)
    dismissal = _dismissal(dismiss, dismiss_category, dismiss_prefix)
    is_item = any((item_id, for_device, expires, remind)) or (system == "gregor" and content is not None)
    message = _message(system, content, create, dismissal, is_item=is_item)
    if not_before is not None:
        message["not_before"] = _moment(not_before)
    path = f"/v1/users/{quote(user, safe='')}/messages"
    receipt = find_target(url, key).call("POST", path, {"dry_run": "true" if dry_run else None}, body=message).json()
    if as_json:
        typer.echo(json.dumps(receipt))
        return
    typer.echo(("rehearsed, nothing is sent: " if dry_run else "") + _in_words(receipt))
    if dry_run:
        _print_deliveries(receipt["deliveries"])


def snooze(
    user: User,
    item_id: Annotated[str, typer.Argument(metavar="ID", help="The item to put off.")],
    for_: Annotated[str, typer.Option("--for", help="For how long: 2h, 30m, 1d, or seconds.")],
    url: Url = None,
    key: Key = None,
    as_json: Json = False,
) -> None:
    """Put an item off.

    It leaves now, and a copy of it comes back later, on all devices.
    """
    target, path = find_target(url, key), f"/v1/users/{quote(user, safe='')}"
    try:
        until = round(now_s() + parse_duration(for_), 3)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--for") from error
    found = target.call("GET", f"{path}/items/{quote(item_id, safe='')}").json()
    if found["gone"] is not None:
        raise Failure(f"{item_id} is not live any more: {_gone(found['gone'])}")
    try:
        message = snoozed(item_id, found["item"], until)
    except ValueError as error:
        raise Failure(str(error)) from error
    # The copy is accepted first: whatever fails between the two, nothing is lost. Another call would name another time.
    receipt = target.call("POST", f"{path}/messages", body=message).json()
    try:
        target.call("POST", f"{path}/messages", body=dismissal([item_id]))
    except Failure:
        with suppress(Failure):
            target.call("DELETE", f"{path}/messages/{receipt['id']}")
        raise
    typer.echo(json.dumps(receipt) if as_json else f"{item_id} comes back {time_text(until)} as {receipt['id']}")


def state(
    user: User,
    device: Annotated[str | None, typer.Option(help="As this device sees it; else all items.")] = None,
    prefix: Prefixes = None,
    at: Annotated[str | None, typer.Option(help="As it was then: -2h (so long ago), or Unix seconds.")] = None,
    url: Url = None,
    key: Key = None,
    as_json: Json = False,
) -> None:
    """Show the live items of a user."""
    query = {"device": device, "category_prefix": prefix, "at": None if at is None else past_moment(at, "--at")}
    answer = find_target(url, key).call("GET", f"/v1/users/{quote(user, safe='')}/state", query).json()
    if as_json:
        typer.echo(json.dumps(answer))
        return
    rows = [item_row(item_id, item) for item_id, item in answer["items"].items()]
    print_table(("ID", "CREATED", "CATEGORY", "FOR", "BODY"), rows, empty=f"{user} has no live items")


def history(
    user: User,
    prefix: Prefixes = None,
    limit: Annotated[int, typer.Option(min=1, max=1_000, help="How many, newest first.")] = 100,
    url: Url = None,
    key: Key = None,
    as_json: Json = False,
) -> None:
    """Show the items of a user, live and gone, newest first."""
    query = {"category_prefix": prefix, "limit": limit}
    answer = find_target(url, key).call("GET", f"/v1/users/{quote(user, safe='')}/history", query).json()
    if as_json:
        typer.echo(json.dumps(answer))
        return
    shown = ((item_row(entry["id"], entry["item"]), _gone(entry["gone"])) for entry in answer["entries"])
    rows = [(*row[:-1], gone, row[-1]) for row, gone in shown]  # bodies stand last: one that is long parts no columns
    print_table(("ID", "CREATED", "CATEGORY", "FOR", "GONE", "BODY"), rows, empty=f"{user} has no history")


def devices(user: User, url: Url = None, key: Key = None, as_json: Json = False) -> None:
    """Show the devices of a user."""
    answer = find_target(url, key).call("GET", f"/v1/users/{quote(user, safe='')}/devices").json()
    if as_json:
        typer.echo(json.dumps(answer))
        return
    rows = [
        (name, device.get("platform") or "-", "online" if device.get("online") else time_text(device.get("last_seen")))
        for name, device in answer["devices"].items()
    ]
    print_table(("DEVICE", "PLATFORM", "LAST SEEN"), rows, empty=f"{user} has no devices")


def _message(
    system: str, content: object, create: dict[str, Any], dismissal: dict[str, Any], *, is_item: bool
) -> dict[str, Any]:
    """What is to be sent; BadParameter where the options do not go together. ``is_item``: some are of an item."""
    if system != "gregor":
        if create or dismissal or is_item:
            raise typer.BadParameter(f"a message to {system} has a --body alone; an item or a dismissal is sent apart")
        return {"system": system, "body": content}
    if is_item and not create:
        raise typer.BadParameter("--id, --body, --for-device, --expires and --remind are of an item: give --category")
    if not create and not dismissal:
        raise typer.BadParameter("nothing to send: give --category, --dismiss… or --system")
    return {"system": system, "body": create | dismissal}


def _creation(
    category: str | None,
    item_id: str | None,
    body: object,
    for_device: str | None,
    expires: str | None,
    remind: list[str] | None,
) -> dict[str, Any]:
    if category is None:
        return {}
    times: dict[str, Any] = {"expires": _time(expires)} if expires else {}
    if remind:
        times["remind_at"] = [_time(at) for at in remind]
    item = {"times": times, "for_device": for_device, "category": category, "body": body}
    return {"create": {item_id or secrets.token_hex(8): item}}


def _dismissal(ids: list[str] | None, category: str | None, prefix: str | None) -> dict[str, Any]:
    dismissal: dict[str, Any] = {"ids": ids} if ids else {}
    given = {"category": category, "category_prefix": prefix}
    if intervals := [{member: value} for member, value in given.items() if value is not None]:
        dismissal["intervals"] = intervals
    return {"dismiss": dismissal} if dismissal else {}


def _time(text: str) -> str | float:
    """`+1h` and `+90` as an offset of the contract, a number as Unix seconds; BadParameter for anything else."""
    try:
        if text.startswith("+"):
            return f"+{parse_duration(text[1:]):.6f}".rstrip("0").rstrip(".")
        if isfinite(number := float(text)):
            return int(text) if re.fullmatch(r"\d+", text) else number
        raise ValueError(text)
    except ValueError as error:
        raise typer.BadParameter(f"{text} is not a time; write +1h, +90, or Unix seconds") from error


def parse_json(text: str | None, option: str) -> object:
    """The value of an option; BadParameter where ingest would not take its text for JSON."""
    try:
        return None if text is None else decode_json(os.fsencode(text), Limits())
    except Problem as problem:
        raise typer.BadParameter(f"{problem.code}: {problem.detail}", param_hint=option) from problem


def _moment(text: str) -> float:
    """`+2h` from now, or Unix seconds, as Unix seconds."""
    at = _time(text)
    return at if isinstance(at, int | float) else round(now_s() + float(at), 3)


def _print_deliveries(deliveries: Iterable[Mapping[str, Any]]) -> None:
    rows = [
        (
            tells_of(each),
            each["channel"] or "push",
            each["device"] or "-",
            time_text(each["at"]) if each["at"] is not None else "never",
            each["reason"] or "",
        )
        for each in deliveries
    ]
    print_table(("TELLS OF", "CHANNEL", "DEVICE", "WHEN", "WHY"), rows, empty="nobody would be told")


def tells_of(delivery: Mapping[str, Any]) -> str:
    """What a delivery tells: its intent, of a reminder with its number."""
    is_numbered = delivery["intent"] == "remind"
    return f"{delivery['intent']} {delivery['n']}" if is_numbered else str(delivery["intent"])


def _in_words(receipt: Mapping[str, Any]) -> str:
    if "seq" not in receipt:
        return f"{receipt['id']} waits until {time_text(receipt['not_before'])}"
    parts = [f"{verb} {', '.join(receipt[verb])}" for verb in ("created", "dismissed") if receipt.get(verb)]
    parts += [f"ignored {item_id} ({reason})" for item_id, reason in receipt.get("ignored", {}).items()]
    if receipt.get("unchanged"):
        parts.append("nothing changed")
    return f"seq {receipt['seq']}" + (": " + "; ".join(parts) if parts else "")


def _gone(gone: Mapping[str, Any] | None) -> str:
    return (
        f"{gone['reason']} {time_text(gone['at'])}" + (f" by {gone['device']}" if gone.get("device") else "")
        if gone
        else "-"
    )


def item_row(item_id: str, item: Mapping[str, Any]) -> tuple[str, ...]:
    """An item as cells: id, created, category, device, body."""
    body = json.dumps(item["body"], ensure_ascii=False)
    return item_id, time_text(item["times"]["created"]), item["category"], item["for_device"] or "all", body


def time_text(seconds: float | None) -> str:
    """A time of the wire for people: local, to the second."""
    return datetime.fromtimestamp(seconds, UTC).astimezone().strftime("%Y-%m-%d %H:%M:%S") if seconds else "-"


def print_table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]], empty: str) -> None:
    """Columns as wide as their widest cell, the last one as it comes; `empty` in place of a table without rows."""
    rows = list(rows)
    if not rows:
        typer.echo(empty)
        return
    widths = [max(len(cell) for cell in column) for column in zip(head, *rows, strict=True)]
    for row in (head, *rows):
        typer.echo("  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip())
