"""Dead letters: deliveries that failed for good. List them, replay them, purge them."""

from __future__ import annotations

import re
from typing import Annotated, Final

from fastapi import APIRouter, Query, Request, Response
from msgspec import UNSET

from gregor.core.errors import Problem
from gregor.core.items.read_cost import listing_weight
from gregor.core.notify.intents import CHANNELS
from gregor.core.notify.ledger import decode_delivery_id, delivery_path, encode_delivery_id, parse_delivery_path
from gregor.core.times import format_time, parse_time
from gregor.store.contract.dead_letters import DeadLetterPosition
from gregor_ingest.guarded_route import Context, CurrentReadLimiter, GuardedRoute
from gregor_ingest.pagination import BEFORE_DESCRIPTION, DEFAULT_LIMIT, Limit, invalid_before, next_link
from gregor_ingest.responses import documented, json_response
from gregor_ingest.schemas.examples import DEAD_LETTER
from gregor_ingest.schemas.fields import json_time
from gregor_ingest.schemas.responses import DeadLetterResponse, DeadLettersResponse, PurgedResponse, ReplayedResponse

from .deliveries import delivery_members

router: Final = APIRouter(route_class=GuardedRoute, tags=["deliveries"])

_PATH: Final = "/v1/deliveries/dead"
_TIME: Final = re.compile(r"\d{1,11}(\.\d{1,6})?\Z", re.ASCII)

Channel = Annotated[str | None, Query(description="Only of this channel.", json_schema_extra={"enum": list(CHANNELS)})]


@router.get(
    _PATH,
    operation_id="listDeadLetters",
    summary="List dead letters",
    responses=documented(
        200,
        "A page, newest first; the header `Link` has the next one. `at`: when the delivery failed for good.",
        DeadLettersResponse,
        {"entries": [DEAD_LETTER]},
        "time_out_of_range",
    ),
    response_class=Response,
)
async def list_dead_letters(
    request: Request,
    context: Context,
    limiter: CurrentReadLimiter,
    channel: Channel = None,
    before: Annotated[
        str | None,
        Query(description=f"Only older than this time. Or: {BEFORE_DESCRIPTION}", min_length=1),
    ] = None,
    limit: Limit = DEFAULT_LIMIT,
) -> Response:
    """Return dead letters of all users. Each is kept for the retention, unless it is replayed or purged."""
    place = None if before is None else _parse_before(before)
    await limiter.charge(listing_weight(limit))
    page = await context.store.dead_letters.page(place, limit, _parse_channel(channel), context.clock.now_us())
    headers = None if page.after is None else next_link(request, _format_before(page.after))
    entries = [
        DeadLetterResponse(uid=each.intent.uid, at=json_time(each.history.last_us), **delivery_members(each))
        for each in page.letters
    ]
    return json_response(DeadLettersResponse(entries, page.is_partial or UNSET), headers=headers)


@router.delete(
    _PATH,
    operation_id="purgeDeadLetters",
    summary="Purge dead letters",
    responses=documented(200, "How many dead letters were purged.", PurgedResponse, {"purged": 3}, "time_out_of_range"),
    response_class=Response,
)
async def purge_dead_letters(
    context: Context,
    channel: Channel = None,
    before: Annotated[str | None, Query(description="Only older than this time.", min_length=1)] = None,
) -> Response:
    """Purge dead letters of all users; without a filter, all of them. The deliveries of the users stay `dead`."""
    before_us = None if before is None else _parse_time(before)
    return json_response(PurgedResponse(await context.store.dead_letters.purge(_parse_channel(channel), before_us)))


@router.post(
    f"{_PATH}/{{delivery}}/replay",
    operation_id="replayDeadLetter",
    summary="Replay a dead letter",
    status_code=202,
    responses=documented(
        202, "The delivery is planned again.", ReplayedResponse, {"id": DEAD_LETTER["id"]}, "not_found"
    ),
    response_class=Response,
)
async def replay_dead_letter(delivery: str, context: Context) -> Response:
    """Deliver a dead letter again: it is retried for a day, and may be cancelled like any other delivery."""
    intent = decode_delivery_id(delivery)
    if intent is None or not await context.store.dead_letters.replay(intent, context.clock.now_us()):
        raise Problem("not_found", "No dead letter has this id; it may have been replayed or purged.")
    return json_response(ReplayedResponse(delivery), 202)


@router.delete(
    f"{_PATH}/{{delivery}}",
    operation_id="purgeDeadLetter",
    summary="Purge a dead letter",
    status_code=204,
    responses=documented(204, "The dead letter is purged, or never existed."),
    response_class=Response,
)
async def purge_dead_letter(delivery: str, context: Context) -> Response:
    """Purge one dead letter. The delivery of the user stays `dead`."""
    intent = decode_delivery_id(delivery)
    if intent is not None:
        await context.store.dead_letters.drop(intent)
    return Response(status_code=204)


def _parse_channel(text: str | None) -> str | None:
    if text is not None and text not in CHANNELS:
        raise Problem("invalid", f"The query parameter channel must be one of {', '.join(CHANNELS)}.")
    return text


def _parse_before(text: str) -> DeadLetterPosition:
    """Return the place of a time, or of ``<time>_<delivery id>`` from the ``Link`` of a page."""
    time, _, delivery_id = text.partition("_")
    intent = decode_delivery_id(delivery_id) if delivery_id else None
    if delivery_id and intent is None:
        raise invalid_before()
    return _parse_time(time), "" if intent is None else delivery_path(intent)


def _parse_time(text: str) -> int:
    if _TIME.match(text) is None:
        raise Problem("invalid", "The query parameter before must be a time in Unix seconds.")
    return parse_time(float(text) if "." in text else int(text), "/query/before")


def _format_before(place: DeadLetterPosition) -> str:
    at_us, path = place
    return f"{format_time(at_us).decode()}_{encode_delivery_id(parse_delivery_path(path))}"
