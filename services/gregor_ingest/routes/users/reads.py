"""Reads of a user: state, sync, one item, history. Reading creates nothing; a uid never seen is an empty user."""

from __future__ import annotations

import asyncio
import random
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Any, Final
from urllib.parse import urlencode

from fastapi import APIRouter, Query, Request, Response

from gregor.core.errors import Problem
from gregor.core.ids import intersect, is_dotted, is_name
from gregor.core.items import digest_lanes as lanes
from gregor.core.items.digest import parse_digest
from gregor.core.items.sync import Cursor, Delta, Full, HistoryEntry, StoredItem, cursor_for, parse_cursor
from gregor.core.messages.encode import encode_history, encode_item, encode_state, encode_state_at, encode_sync
from gregor.core.notify.timeline import build_timeline
from gregor.core.times import parse_time
from gregor_ingest.context import IngestContext
from gregor_ingest.guarded_route import Context, CurrentActor, CurrentView, GuardedRoute, RenderLocale
from gregor_ingest.responses import documented, json_response
from gregor_ingest.schemas.examples import HISTORY, ITEM, STATE, SYNC
from gregor_ingest.schemas.requests import CATEGORY_SCHEMA

router: Final = APIRouter(route_class=GuardedRoute, tags=["reads"])

_VOID: Final = Cursor("", 0)
_BEFORE: Final = re.compile(r"(0|[1-9][0-9]{0,12})\.(.+)\Z")
_NUMBER: Final = re.compile(r"-?[0-9]{1,20}(\.[0-9]{1,20})?\Z")
_PRIVATE: Final = {"Cache-Control": "private, no-cache"}

_EXACT: Final = Query(
    description="Only this very category; the copy cannot be resumed from by `sync`.", json_schema_extra=CATEGORY_SCHEMA
)
_AT: Final = Query(
    description="The state as it was at this time (Unix seconds), within the retention.",
    json_schema_extra={"pattern": r"^-?[0-9]{1,20}(\.[0-9]{1,20})?$"},
)
_DIGEST: Final = Query(description="The digest of the copy.", json_schema_extra={"pattern": "^[0-9a-f]{64}$"})
_PAGE: Final = Query(
    description="As `Link` gives it.",
    json_schema_extra={"pattern": r"^(0|[1-9][0-9]{0,12})\.[A-Za-z0-9][A-Za-z0-9._:@-]{0,127}$"},
)


@router.get(
    "/v1/users/{uid}/state",
    operation_id="readState",
    summary="The state of a user",
    responses=documented(200, "The state, or as it was `at` a time.", STATE, "time_out_of_range", "too_many")
    | {304: {"description": "Not modified: the digest is the one of If-None-Match."}},
    response_class=Response,
)
async def read_state(
    uid: str,
    request: Request,
    context: Context,
    view: CurrentView,
    category: Annotated[str | None, _EXACT] = None,
    at: Annotated[str | None, _AT] = None,
    render: RenderLocale = None,
) -> Response:
    """All live items of the view. `ETag` and `If-None-Match` make an unchanged state cost nothing."""
    if category is not None and not is_dotted(category):
        raise Problem("invalid_id", "The query parameter category is no category.")
    read = view if category is None else replace(view, category_filter=intersect(view.category_filter, (category,)))
    now_us = context.clock.now_us()
    if at is not None:
        past = _exactly(await context.store.users.state_at(uid, read, _past_us(at, now_us, context), now_us), category)
        return json_response(encode_state_at(past, await _rendered(past.items, uid, render, context)), headers=_PRIVATE)
    full = _exactly(await context.store.users.state(uid, read, now_us), category)
    # No filter can be spelled so: a cursor of an exact category is void everywhere, as a delta of it cannot be told.
    told = read if category is None else replace(read, category_filter=(f"={category}",))
    # Words change with the policy alone, and with the language: a copy with words is another copy.
    words = "" if render is None else f".{context.categories.version}.{render}"
    etag = f'W/"{full.digest.hex()}{words}"'
    headers = {**_PRIVATE, "ETag": etag, "Gregor-Cursor": str(cursor_for(full.epoch, told, full.seq))}
    if _is_known(request.headers.getlist("if-none-match"), etag):
        return Response(status_code=304, headers=headers)
    badge = context.categories.current.badge(Counter(item.category for item in full.items))
    rendered = await _rendered(full.items, uid, render, context)
    return json_response(encode_state(full, told, badge, rendered), headers=headers)


@router.get(
    "/v1/users/{uid}/sync",
    operation_id="sync",
    summary="What leads a copy to now",
    responses=documented(200, "A sync object: full, delta or unchanged.", SYNC, "too_many"),
    response_class=Response,
)
async def read_sync(
    uid: str,
    context: Context,
    actor: CurrentActor,
    view: CurrentView,
    cursor: Annotated[str | None, Query(description="The position of the copy.")] = None,
    digest: Annotated[str | None, _DIGEST] = None,
    render: RenderLocale = None,
) -> Response:
    """The shortest of: unchanged, the changes since the cursor, the whole view; with external messages since."""
    at = None if cursor is None else parse_cursor(cursor) or _VOID
    proof = None if digest is None else parse_digest(digest)
    if digest is not None and proof is None:
        raise Problem("invalid", "The query parameter digest is 64 hex digits in small letters.")
    systems = None if actor.caller is None else actor.caller.systems
    now_us = context.clock.now_us()
    answer = await context.store.users.sync(uid, view, at, proof, now_us, systems, random.randbytes(3))
    items = answer.items if isinstance(answer, Full) else answer.create if isinstance(answer, Delta) else ()
    rendered = await _rendered(items, uid, render, context) or b"{}"
    return json_response(encode_sync(answer, view, rendered), headers={"Cache-Control": "no-store"})


@router.get(
    "/v1/users/{uid}/items/{id}",
    operation_id="readItem",
    summary="One item, live or gone",
    responses=documented(200, "The item and what happened to it.", ITEM, "not_found", "too_many"),
    response_class=Response,
)
async def read_item(uid: str, id: str, context: Context, view: CurrentView, render: RenderLocale = None) -> Response:
    """An item of the view, from the state or the history, with its timeline."""
    entry = await context.store.users.item(uid, id, view, context.clock.now_us())
    if entry is None:
        raise Problem("not_found", "There is no such item here, or it is forgotten, or not in the caller's view.")
    told, shown = await asyncio.gather(
        context.store.ledger.of_item(uid, id), context.store.devices.acknowledgements(uid)
    )
    events = build_timeline(entry, told, shown, view)
    rendered = await _rendered(_whole([entry]), uid, render, context)
    return json_response(encode_item(entry, events, rendered), headers=_PRIVATE)


@router.get(
    "/v1/users/{uid}/history",
    operation_id="readHistory",
    summary="Items, live and gone",
    responses=documented(
        200, "A page; `Link` with `rel=next` leads to the one before it in time.", HISTORY, "too_many"
    ),
    response_class=Response,
)
async def read_history(
    uid: str,
    request: Request,
    context: Context,
    actor: CurrentActor,
    view: CurrentView,
    before: Annotated[str | None, _PAGE] = None,
    limit: Annotated[int, Query(ge=1, le=1_000, description="Entries of a page.")] = 100,
    render: RenderLocale = None,
) -> Response:
    """The user's queue of notifications, newest first (seq, then id)."""
    below = _parse_before(before)
    await context.authorizer.take_history(actor)
    found = await context.store.users.history(uid, view, below, limit + 1, context.clock.now_us())
    page = found[:limit]
    headers = dict(_PRIVATE)
    if len(found) > limit:
        headers["Link"] = f'<{_next(request, f"{page[-1].seq}.{page[-1].id}")}>; rel="next"'
    return json_response(encode_history(page, await _rendered(_whole(page), uid, render, context)), headers=headers)


async def _rendered(
    items: Sequence[StoredItem | HistoryEntry], uid: str, locale: str | None, context: IngestContext
) -> bytes | None:
    """The words of items, where the reader named a language."""
    if locale is None:
        return None
    return await context.categories.renderer.render_json_in_slices(
        [(item.id, item.json) for item in items], locale, uid
    )


def _whole(entries: Sequence[HistoryEntry]) -> list[HistoryEntry]:
    """Those whose body is still there to make words of."""
    return [entry for entry in entries if not entry.is_trimmed]


def _exactly(full: Full, category: str | None) -> Full:
    """The items of that very category, with the digest of exactly these."""
    if category is None:
        return full
    items = tuple(item for item in full.items if item.category == category)
    return replace(full, items=items, digest=lanes.total(item.leaf for item in items))


def _past_us(text: str, now_us: int, context: IngestContext) -> int:
    if not _NUMBER.match(text):
        raise Problem("invalid", "The query parameter at is a time: Unix seconds, whole or decimal.")
    at_us = parse_time(float(text) if "." in text else int(text), "")
    if not now_us - context.limits.retention_us <= at_us <= now_us:
        raise Problem("time_out_of_range", "The query parameter at is after now, or older than the retention.")
    return at_us


def _is_known(headers: list[str], etag: str) -> bool:
    """Whether If-None-Match names the tag (weak comparison, RFC 9110 §13.1.2)."""
    opaque = etag.removeprefix("W/")
    tags = [tag.strip() for header in headers for tag in header.split(",")]
    return any(tag == "*" or tag.removeprefix("W/") == opaque for tag in tags)


def _parse_before(text: str | None) -> tuple[int, str] | None:
    if text is None:
        return None
    match = _BEFORE.match(text)
    if match is None or not is_name(match[2]):
        raise Problem("invalid", "The query parameter before is as a Link of an earlier page gave it.")
    return int(match[1]), match[2]


def _next(request: Request, before: str) -> str:
    query: list[tuple[str, Any]] = [pair for pair in request.query_params.multi_items() if pair[0] != "before"]
    return f"{request.url.path}?{urlencode([*query, ('before', before)])}"
