"""Reads of a user: state, sync, one item, history. A read creates nothing; an unknown uid is a user without items."""

from __future__ import annotations

import asyncio
import random
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Final

from fastapi import APIRouter, Query, Request, Response

from gregor.core.errors import Problem
from gregor.core.ids import intersect, is_dotted, is_name
from gregor.core.items import digest as digests
from gregor.core.items.digest import parse_digest
from gregor.core.items.read_cost import render_weight
from gregor.core.items.sync import Cursor, Delta, Full, HistoryEntry, StoredItem, cursor_for, parse_cursor
from gregor.core.messages.encode import encode_history, encode_item, encode_state, encode_state_at, encode_sync
from gregor.core.notify.timeline import build_timeline
from gregor.core.times import parse_time
from gregor.cpu_meter import metered
from gregor_ingest.context import IngestContext
from gregor_ingest.guarded_route import (
    Context,
    CurrentActor,
    CurrentReadLimiter,
    CurrentView,
    GuardedRoute,
    ReadLimiter,
    RenderLocale,
)
from gregor_ingest.pagination import BEFORE_DESCRIPTION, DEFAULT_LIMIT, Limit, invalid_before, next_link
from gregor_ingest.request import matches_etag
from gregor_ingest.responses import documented, json_response
from gregor_ingest.schemas.examples import HISTORY, ITEM, STATE, SYNC
from gregor_ingest.schemas.fields import CATEGORY_SCHEMA
from gregor_ingest.schemas.responses import HistoryResponse, ItemStoryResponse, StateResponse, SyncResponse

router: Final = APIRouter(route_class=GuardedRoute, tags=["reads"])

_INVALID_CURSOR: Final = Cursor("", 0)
"""Belongs to no epoch, so sync responds with a full copy."""
_BEFORE: Final = re.compile(r"(0|[1-9][0-9]{0,12})\.(.+)\Z")
_NUMBER: Final = re.compile(r"-?[0-9]{1,20}(\.[0-9]{1,20})?\Z")
_PRIVATE: Final = {"Cache-Control": "private, no-cache"}

_CATEGORY: Final = Query(
    description="Only this category, without those below it. Such a copy cannot be continued with `sync`.",
    json_schema_extra=CATEGORY_SCHEMA,
)
_AT: Final = Query(
    description="The state as it was at this time (Unix seconds), within the retention.",
    json_schema_extra={"pattern": r"^-?[0-9]{1,20}(\.[0-9]{1,20})?$"},
)
_DIGEST: Final = Query(description="The digest of the copy.", json_schema_extra={"pattern": "^[0-9a-f]{64}$"})
_HISTORY_BEFORE: Final = Query(
    description=BEFORE_DESCRIPTION,
    json_schema_extra={"pattern": r"^(0|[1-9][0-9]{0,12})\.[A-Za-z0-9][A-Za-z0-9._:@-]{0,127}$"},
)


@router.get(
    "/v1/users/{uid}/state",
    operation_id="readState",
    summary="Read the state of a user",
    responses=documented(200, "The state now, or `at` a time.", StateResponse, STATE, "time_out_of_range", "too_many")
    | {304: {"description": "Not modified: the ETag is in If-None-Match."}},
    response_class=Response,
)
async def read_state(
    uid: str,
    request: Request,
    context: Context,
    view: CurrentView,
    limiter: CurrentReadLimiter,
    category: Annotated[str | None, _CATEGORY] = None,
    at: Annotated[str | None, _AT] = None,
    render: RenderLocale = None,
) -> Response:
    """Return the live items of the view. With `If-None-Match`, an unchanged state has no body."""
    if category is not None and not is_dotted(category):
        raise Problem(
            "invalid_id", "The query parameter category is not valid: use dotted segments, such as user.joined."
        )
    read_view = (
        view if category is None else replace(view, category_filter=intersect(view.category_filter, (category,)))
    )
    now_us = context.clock.now_us()
    await limiter.charge_stored(uid, has_past=at is not None)
    if at is not None:
        past = _only_category(
            await context.store.users.state_at(uid, read_view, _past_us(at, now_us, context), now_us), category
        )
        rendered = await _rendered(past.items, uid, render, context, limiter)
        return json_response(encode_state_at(past, rendered), headers=_PRIVATE)
    full = _only_category(await context.store.users.state(uid, read_view, now_us), category)
    # "=" is in no valid filter: a cursor of an exact category must not be accepted by sync, which knows only prefixes.
    cursor_view = read_view if category is None else replace(read_view, category_filter=(f"={category}",))
    # Rendered texts also depend on the category entries and the language.
    rendering = "" if render is None else f".{context.categories.version}.{render}"
    # Weak, because equal digests guarantee equal items, not equal bytes.
    etag = f'W/"{full.digest.hex()}{rendering}"'
    headers = {**_PRIVATE, "ETag": etag, "Gregor-Cursor": str(cursor_for(full.epoch, cursor_view, full.seq))}
    if matches_etag(request.headers.getlist("if-none-match"), etag):
        return Response(status_code=304, headers=headers)
    badge = context.categories.current.badge(Counter(item.category for item in full.items))
    rendered = await _rendered(full.items, uid, render, context, limiter)
    return json_response(encode_state(full, cursor_view, badge, rendered), headers=headers)


@router.get(
    "/v1/users/{uid}/sync",
    operation_id="sync",
    summary="Bring a copy up to date",
    responses=documented(200, "A sync object: full, delta or unchanged.", SyncResponse, SYNC, "too_many"),
    response_class=Response,
)
async def read_sync(
    uid: str,
    context: Context,
    actor: CurrentActor,
    view: CurrentView,
    limiter: CurrentReadLimiter,
    cursor: Annotated[str | None, Query(description="The position of the copy.")] = None,
    digest: Annotated[str | None, _DIGEST] = None,
    render: RenderLocale = None,
) -> Response:
    """Return the shortest of: nothing, the changes since the cursor, or all items; and external messages since then."""
    at = None if cursor is None else parse_cursor(cursor) or _INVALID_CURSOR
    known_digest = None if digest is None else parse_digest(digest)
    if digest is not None and known_digest is None:
        raise Problem("invalid", "The query parameter digest must be 64 hex digits in lower case.")
    now_us = context.clock.now_us()
    await limiter.charge_sync(uid, has_cursor=at is not None)
    result = await context.store.users.sync(uid, view, at, known_digest, now_us, actor.systems, random.randbytes(3))
    items = result.items if isinstance(result, Full) else result.create if isinstance(result, Delta) else ()
    rendered = await _rendered(items, uid, render, context, limiter) or b"{}"
    return json_response(encode_sync(result, view, rendered))


@router.get(
    "/v1/users/{uid}/items/{id}",
    operation_id="readItem",
    summary="Read an item",
    responses=documented(200, "The item with its timeline.", ItemStoryResponse, ITEM, "not_found", "too_many"),
    response_class=Response,
)
async def read_item(
    uid: str, id: str, context: Context, view: CurrentView, limiter: CurrentReadLimiter, render: RenderLocale = None
) -> Response:
    """Return an item of the state or the history, with its timeline."""
    entry = await context.store.users.item(uid, id, view, context.clock.now_us())
    if entry is None:
        raise Problem("not_found", "The view has no item with this id, or the item is no longer stored.")
    deliveries, acknowledgements = await asyncio.gather(
        metered(context.store.ledger.of_item(uid, id)), metered(context.store.devices.acknowledgements(uid))
    )
    events = build_timeline(entry, deliveries, acknowledgements, view)
    rendered = await _rendered(_with_body([entry]), uid, render, context, limiter)
    return json_response(encode_item(entry, events, rendered), headers=_PRIVATE)


@router.get(
    "/v1/users/{uid}/history",
    operation_id="readHistory",
    summary="Read the history",
    responses=documented(
        200, "A page, newest first; the header `Link` has the next one.", HistoryResponse, HISTORY, "too_many"
    ),
    response_class=Response,
)
async def read_history(
    uid: str,
    request: Request,
    context: Context,
    actor: CurrentActor,
    view: CurrentView,
    limiter: CurrentReadLimiter,
    before: Annotated[str | None, _HISTORY_BEFORE] = None,
    limit: Limit = DEFAULT_LIMIT,
    render: RenderLocale = None,
) -> Response:
    """Return live and removed items, newest first (by seq, then id)."""
    position = _parse_before(before)
    await context.rate_limiter.check_history(actor, request.scope)
    await limiter.charge_stored(uid, has_past=True)
    # One more than the page, to know if there is a next one.
    found = await context.store.users.history(uid, view, position, limit + 1, context.clock.now_us())
    page = found[:limit]
    headers = dict(_PRIVATE)
    if len(found) > limit:
        headers |= next_link(request, f"{page[-1].seq}.{page[-1].id}")
    rendered = await _rendered(_with_body(page), uid, render, context, limiter)
    return json_response(encode_history(page, rendered), headers=headers)


# --- Rendering and filters


async def _rendered(
    items: Sequence[StoredItem | HistoryEntry],
    uid: str,
    locale: str | None,
    context: IngestContext,
    limiter: ReadLimiter,
) -> bytes | None:
    """Return the rendered texts of the items as JSON, or ``None`` without a language."""
    if locale is None:
        return None
    await limiter.charge(render_weight(len(items), sum(len(item.json) for item in items)))
    return await context.categories.renderer.render_json_in_slices(
        [(item.id, item.json) for item in items], locale, uid
    )


def _with_body(entries: Sequence[HistoryEntry]) -> list[HistoryEntry]:
    """Return the entries whose body is still kept: the others cannot be rendered."""
    return [entry for entry in entries if not entry.is_trimmed]


def _only_category(full: Full, category: str | None) -> Full:
    """Return only the items of exactly this category, with their digest."""
    if category is None:
        return full
    items = tuple(item for item in full.items if item.category == category)
    return replace(full, items=items, digest=digests.total(item.leaf for item in items))


# --- Query parameters and headers


def _past_us(text: str, now_us: int, context: IngestContext) -> int:
    if not _NUMBER.match(text):
        raise Problem("invalid", "The query parameter at must be a time in Unix seconds.")
    at_us = parse_time(float(text) if "." in text else int(text), "")
    if not now_us - context.limits.retention_us <= at_us <= now_us:
        raise Problem("time_out_of_range", "The query parameter at is in the future, or older than the retention.")
    return at_us


def _parse_before(text: str | None) -> tuple[int, str] | None:
    if text is None:
        return None
    match = _BEFORE.match(text)
    if match is None or not is_name(match[2]):
        raise invalid_before()
    return int(match[1]), match[2]
