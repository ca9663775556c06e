"""`gregor send | snooze | state | history | devices`: calls of a backend, made by hand."""

import json
import os
import secrets
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Annotated, Any

import typer

from gregor.cli.environment import now_s
from gregor.cli.errors import CommandError
from gregor.cli.tables import counted, echo, gone_text, item_row, notice_text, print_table
from gregor.cli.target import Json, Key, Url, find_target, path_segment
from gregor.cli.times import duration_option, future_time, past_time, time_or_offset, time_text
from gregor.client.messages import dismissal, snoozed
from gregor.core.errors import Problem
from gregor.core.json_text import decode_json
from gregor.core.limits import Limits

User = Annotated[str, typer.Argument(metavar="USER", help="The user.")]
Prefixes = Annotated[list[str] | None, typer.Option("--category-prefix", help="Only under this prefix (repeatable).")]
WHY_IGNORED = {
    "conflict": "the id was used before, for an item with other content",
    "dismissed": "an item with this id was dismissed, and ids never come back",
    "duplicate": "the same item was created before",
    "expired": "it has expired",
    "stale": "it is older than the dismissals that are remembered",
}


def send(
    user: User,
    category: Annotated[str | None, typer.Option(help="Create an item of this category.")] = None,
    body: Annotated[str | None, typer.Option(help="JSON: body of the item, or of the external message.")] = None,
    item_id: Annotated[str | None, typer.Option("--id", help="Id of the item (default: random).")] = None,
    for_device: Annotated[
        str | None, typer.Option(help="A device, or `*`: each device dismisses it for itself.")
    ] = None,
    expires: Annotated[str | None, typer.Option(help="Expiry: +1h, +90 (seconds from now), or Unix seconds.")] = None,
    remind: Annotated[list[str] | None, typer.Option(help="Reminder: +1h, +90, or Unix seconds (repeatable).")] = None,
    dismiss: Annotated[list[str] | None, typer.Option(help="Dismiss this id (repeatable).")] = None,
    dismiss_category: Annotated[str | None, typer.Option(help="Dismiss all items of this category.")] = None,
    dismiss_prefix: Annotated[str | None, typer.Option(help="Dismiss all items under this category prefix.")] = None,
    system: Annotated[str, typer.Option(help="Send an external message to this system.")] = "gregor",
    not_before: Annotated[str | None, typer.Option(help="Take effect later: +2h, or Unix seconds.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show the effect and the notifications.")] = False,
    url: Url = None,
    key: Key = None,
    as_json: Json = False,
) -> None:
    """Send a message: create an item, or dismiss items.

    --category creates an item, --dismiss… dismisses items, --system sends an external message. Exit status 1 if the
    item was not created, for example because an item with its id was dismissed before.
    """
    content = parse_json(body, "--body")
    create = _creation(category, item_id, content, for_device, expires, remind)
    dismissed = _dismissal(dismiss, dismiss_category, dismiss_prefix)
    has_item_options = any((item_id, for_device, expires, remind)) or (system == "gregor" and content is not None)
    message = _message(system, content, create, dismissed, has_item_options=has_item_options)
    if not_before is not None:
        message["not_before"] = future_time(not_before, "--not-before", now_s())
    path = f"/v1/users/{path_segment(user)}/messages"
    receipt = find_target(url, key).call("POST", path, {"dry_run": "true" if dry_run else None}, body=message)
    if as_json:
        echo(json.dumps(receipt))
    elif dry_run:
        _print_dry_run(receipt)
    else:
        echo(_receipt_text(receipt))
    if not dry_run and any(reason != "duplicate" for reason in receipt.get("ignored", {}).values()):
        raise typer.Exit(1)


def snooze(
    user: User,
    item_id: Annotated[str, typer.Argument(metavar="ID", help="The item.")],
    for_: Annotated[str, typer.Option("--for", help="For how long: 2h, 30m, 1d, or seconds.")],
    url: Url = None,
    key: Key = None,
    as_json: Json = False,
) -> None:
    """Snooze an item: dismiss it now, and create a copy later.

    Both happen on all devices.
    """
    target, path = find_target(url, key), f"/v1/users/{path_segment(user)}"
    until = round(now_s() + duration_option(for_, "--for"), 3)
    found = target.call("GET", f"{path}/items/{path_segment(item_id)}")
    if found["gone"] is not None:
        raise CommandError(f"{item_id} is not live: {gone_text(found['gone'])}")
    try:
        message = snoozed(item_id, found["item"], until)
    except ValueError as error:
        raise CommandError(str(error)) from error
    # The copy is accepted first, so a failure in between loses nothing. A repeat would name another time: cancel it.
    receipt = target.call("POST", f"{path}/messages", body=message)
    try:
        target.call("POST", f"{path}/messages", body=dismissal([item_id]))
    except CommandError:
        with suppress(CommandError):
            target.call("DELETE", f"{path}/messages/{receipt['id']}")
        raise
    echo(json.dumps(receipt) if as_json else f"{item_id} comes back {time_text(until)} as {receipt['id']}")


def state(
    user: User,
    device: Annotated[str | None, typer.Option(help="As this device sees it (default: all items).")] = None,
    category: Annotated[str | None, typer.Option(help="Only exactly this category.")] = None,
    prefix: Prefixes = None,
    at: Annotated[str | None, typer.Option(help="At a time of the past: -2h (ago), or Unix seconds.")] = None,
    url: Url = None,
    key: Key = None,
    as_json: Json = False,
) -> None:
    """Show the live items of a user, and the badge."""
    past = None if at is None else past_time(at, "--at", now_s())
    query = {"device": device, "category": category, "category_prefix": prefix, "at": past}
    answer = find_target(url, key).call("GET", f"/v1/users/{path_segment(user)}/state", query)
    if as_json:
        echo(json.dumps(answer))
        return
    rows = [item_row(item_id, item) for item_id, item in answer["items"].items()]
    print_table(("ID", "CREATED", "CATEGORY", "FOR", "BODY"), rows, empty=f"{user} has no live items")
    if rows and answer.get("badge") is not None:
        echo(f"{counted(len(rows), 'item', 'items')}, badge {answer['badge']}")


def history(
    user: User,
    prefix: Prefixes = None,
    limit: Annotated[int, typer.Option(min=1, max=1_000, help="Maximum number, newest first.")] = 100,
    url: Url = None,
    key: Key = None,
    as_json: Json = False,
) -> None:
    """Show the items of a user, live and gone, newest first."""
    query = {"category_prefix": prefix, "limit": limit}
    answer = find_target(url, key).call("GET", f"/v1/users/{path_segment(user)}/history", query)
    if as_json:
        echo(json.dumps(answer))
        return
    cells = ((item_row(entry["id"], entry["item"]), gone_text(entry["gone"])) for entry in answer["entries"])
    rows = [(*row[:-1], gone, row[-1]) for row, gone in cells]
    print_table(("ID", "CREATED", "CATEGORY", "FOR", "GONE", "BODY"), rows, empty=f"{user} has no history")


def devices(user: User, url: Url = None, key: Key = None, as_json: Json = False) -> None:
    """Show the devices of a user."""
    answer = find_target(url, key).call("GET", f"/v1/users/{path_segment(user)}/devices")
    if as_json:
        echo(json.dumps(answer))
        return
    rows = [
        (name, device.get("platform") or "-", "online" if device.get("online") else time_text(device.get("last_seen")))
        for name, device in answer["devices"].items()
    ]
    print_table(("DEVICE", "PLATFORM", "LAST SEEN"), rows, empty=f"{user} has no devices")


# Messages from options.


def _message(
    system: str, content: object, create: dict[str, Any], dismissed: dict[str, Any], *, has_item_options: bool
) -> dict[str, Any]:
    """Return the message to send. Raises BadParameter if the options exclude each other."""
    if system != "gregor":
        if create or dismissed or has_item_options:
            raise typer.BadParameter("an external message (--system) has only a --body; send items without --system")
        return {"system": system, "body": content}
    if has_item_options and not create:
        raise typer.BadParameter("--id, --body, --for-device, --expires and --remind need --category")
    if not create and not dismissed:
        raise typer.BadParameter("give --category, --dismiss… or --system")
    return {"system": system, "body": create | dismissed}


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
    times: dict[str, Any] = {"expires": time_or_offset(expires, "--expires")} if expires else {}
    if remind:
        times["remind_at"] = [time_or_offset(at, "--remind") for at in remind]
    item = {"times": times, "for_device": for_device, "category": category, "body": body}
    return {"create": {item_id or secrets.token_hex(8): item}}


def _dismissal(ids: list[str] | None, category: str | None, prefix: str | None) -> dict[str, Any]:
    dismiss: dict[str, Any] = {"ids": ids} if ids else {}
    given = {"category": category, "category_prefix": prefix}
    if intervals := [{member: value} for member, value in given.items() if value is not None]:
        dismiss["intervals"] = intervals
    return {"dismiss": dismiss} if dismiss else {}


def parse_json(text: str | None, option: str) -> object:
    """Return the value of a JSON option. Raises BadParameter if ingest would not accept the text as JSON."""
    try:
        return None if text is None else decode_json(os.fsencode(text), Limits())
    except Problem as problem:
        raise typer.BadParameter(f"{problem.code}: {problem.detail}", param_hint=option) from problem


# Receipts as text.

_EFFECTS = ("created", "dismissed")


def _receipt_text(receipt: Mapping[str, Any], *, dry_run: bool = False) -> str:
    if "seq" not in receipt:
        return f"{receipt['id']} waits until {time_text(receipt['not_before'])}"
    words = {"created": "would create", "dismissed": "would dismiss"} if dry_run else {}
    parts = [f"{words.get(verb, verb)} {', '.join(receipt[verb])}" for verb in _EFFECTS if receipt.get(verb)]
    for item_id, reason in receipt.get("ignored", {}).items():
        ignored = "would not be created" if dry_run else "was not created"
        parts.append(f"{item_id} {ignored} ({reason}): {WHY_IGNORED.get(reason, 'see the documentation')}")
    if receipt.get("unchanged") and not receipt.get("ignored"):
        parts.append("nothing would change" if dry_run else "nothing changed")
    if dry_run:  # the number of a message that was not sent says nothing
        return "; ".join(parts) or "the message would be accepted"
    return f"seq {receipt['seq']}" + (": " + "; ".join(parts) if parts else "")


def _print_dry_run(receipt: Mapping[str, Any]) -> None:
    echo("dry run, nothing was sent")
    echo(_receipt_text(receipt, dry_run=True))
    _print_deliveries(receipt["deliveries"])
    for warning in receipt.get("warnings", ()):
        echo(f"warning: {warning}")


def _print_deliveries(deliveries: Iterable[Mapping[str, Any]]) -> None:
    rows = [
        (
            notice_text(each),
            each["channel"] or "push",
            each["device"] or "-",
            time_text(each["at"]) if each["at"] is not None else "never",
            each["reason"] or "",
        )
        for each in deliveries
    ]
    print_table(("NOTICE", "CHANNEL", "DEVICE", "WHEN", "REASON"), rows, empty="no notification would be planned")
