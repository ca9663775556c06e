"""`gregor audit`: which service key changed what, and when."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from itertools import islice, takewhile
from typing import Annotated, Any

import typer

from gregor.cli.environment import now_s
from gregor.cli.tables import echo, print_table
from gregor.cli.target import Json, Key, Target, Url, find_target
from gregor.cli.times import past_time, utc_text

PATH = "/v1/audit"
HEAD = ("TIME (UTC)", "KEY", "ACT", "TARGET", "OUTCOME", "CLIENT", "REQUEST")
PAGE = 1_000
MAX_LIMIT = 100_000
"""Most events that the audit trail keeps."""
ACTS = (
    "applyCategories", "broadcast", "cancelJob", "createKey", "createWebhook", "deleteCategory", "deleteContact",
    "deleteKey", "deleteUser", "deleteWebhook", "exportUser", "finishUpgrade", "flushAll", "flushUser",
    "forgetDevice", "patchContact", "patchDevice", "patchPreferences", "patchWebhook", "purgeDeadLetter",
    "purgeDeadLetters", "putCategory", "putContact", "putDevice", "putPreferences", "putQuietHours", "releaseAddress",
    "replayDeadLetter", "revokeTokens", "rollBackCategories", "rotateKey", "rotateWebhook", "startJob",
    "suppressAddress",
)  # fmt: skip
"""The acts of the audit trail. A command loads no service, so a test compares them with the OpenAPI document."""
CLOCK_SKEW_S = 300
"""The trail has the order of arrival, and each event the clock of its process, which may be this much behind."""


def _check_act(act: str | None) -> str | None:
    if act is None or act in ACTS:
        return act
    by_lower_case = {each.lower(): each for each in ACTS}
    near = [by_lower_case[each] for each in get_close_matches(act.lower(), by_lower_case)]
    hint = f"did you mean {' or '.join(near)}?" if near else "gregor audit --help lists the acts"
    raise typer.BadParameter(f"{act} is not an act of the audit trail; {hint}")


def audit(
    limit: Annotated[int, typer.Option(min=1, max=MAX_LIMIT, help="Maximum number, newest first.")] = 100,
    act: Annotated[
        str | None, typer.Option(help=f"Only this act: {', '.join(ACTS)}.", callback=_check_act, metavar="ACT")
    ] = None,
    by: Annotated[str | None, typer.Option(help="Only acts of the service key with this id.")] = None,
    user: Annotated[str | None, typer.Option(help="Only acts on this user.")] = None,
    target: Annotated[str | None, typer.Option(help="Only acts with this value in TARGET, such as a key id.")] = None,
    since: Annotated[str | None, typer.Option(help="Only later acts: -2d (ago), or Unix seconds.")] = None,
    until: Annotated[str | None, typer.Option(help="Only earlier acts: -2d (ago), or Unix seconds.")] = None,
    url: Url = None,
    key: Key = None,
    as_json: Json = False,
) -> None:
    """Print the audit trail: the writes of service keys, newest first.

    With a filter, the command reads the whole trail, or the part since --since. TARGET has hashes of user ids.
    """
    now = now_s()
    since_s = None if since is None else float(past_time(since, "--since", now))
    until_s = None if until is None else float(past_time(until, "--until", now))
    uid_hash = None if user is None else _user_hash(user)

    def matches(event: Mapping[str, Any]) -> bool:
        values = event["target"].values()
        return (
            act in (None, event["act"])
            and by in (None, event["key"])
            and (uid_hash is None or event["target"].get("uid") == uid_hash)
            and (target is None or target in values)
            and (since_s is None or event["at"] >= since_s)
            and (until_s is None or event["at"] < until_s)
        )

    is_filtered = any(each is not None for each in (act, by, user, target, since, until))
    read = _events(find_target(url, key), PAGE if is_filtered else limit)
    recent = takewhile(lambda event: since_s is None or event["at"] >= since_s - CLOCK_SKEW_S, read)
    events = list(islice(filter(matches, recent), limit))
    if as_json:
        echo(json.dumps({"entries": events}))
    else:
        empty = "no entry of the audit trail matches" if is_filtered else "the audit trail is empty"
        print_table(HEAD, map(_row, events), empty=empty)


def _user_hash(uid: str) -> str:
    """Return the hash of a user id in the audit trail. It equals `gregor.store.deleted_users.user_id_hash`."""
    return hashlib.sha256(uid.encode()).hexdigest()[:32]


def _events(target: Target, most: int) -> Iterator[dict[str, Any]]:
    for page in target.pages(PATH, {"limit": min(most, PAGE)}):
        yield from page["entries"]


def _row(event: Mapping[str, Any]) -> tuple[str, ...]:
    target = " ".join(f"{name}={value}" for name, value in event["target"].items())
    return (
        utc_text(event["at"]),
        event["key"],
        event["act"],
        target or "-",
        event["outcome"],
        event["client"] or "-",
        event["request_id"],
    )
