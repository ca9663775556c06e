"""Dead letters: deliveries that were given up; seen, sent again, or put away."""

from __future__ import annotations

import re
from typing import Annotated, Any, Final

import msgspec
from fastapi import APIRouter, Query, Request, Response

from gregor.core.errors import Problem
from gregor.core.notify.intents import CHANNELS
from gregor.core.notify.ledger import (
    DeliveryRecord,
    decode_delivery_id,
    delivery_path,
    encode_delivery_id,
    parse_delivery_path,
)
from gregor.core.times import format_time, parse_time
from gregor.store.contract.dead_letters import Place
from gregor_ingest.guarded_route import Context, GuardedRoute
from gregor_ingest.responses import documented, json_response
from gregor_ingest.schemas.examples import DEAD_LETTER

from .deliveries import shown

router: Final = APIRouter(route_class=GuardedRoute, tags=["deliveries"])

_PATH: Final = "/v1/deliveries/dead"
_TIME: Final = re.compile(r"\d{1,11}(\.\d{1,6})?\Z", re.ASCII)

Channel = Annotated[str | None, Query(description="Only of this channel.", json_schema_extra={"enum": list(CHANNELS)})]


@router.get(
    _PATH,
    operation_id="listDeadLetters",
    summary="Dead letters",
    responses=documented(
        200,
        "A page, the latest first; `Link` with `rel=next` leads on. `at`: when it was given up.",
        {"entries": [DEAD_LETTER]},
        "time_out_of_range",
    ),
    response_class=Response,
)
async def list_dead_letters(
    request: Request,
    context: Context,
    channel: Channel = None,
    before: Annotated[
        str | None, Query(description="Given up before this time; or as a `Link` of an earlier page gave it.")
    ] = None,
    limit: Annotated[int, Query(ge=1, le=1_000, description="Entries of a page, at most.")] = 100,
) -> Response:
    """Of all users. Each is kept for the retention, unless it is sent again, purged, or its user forgotten."""
    channel, place = _channel(channel), _place(before)
    page = await context.store.dead_letters.page(place, limit, channel, context.clock.now_us())
    headers = {"Cache-Control": "no-store"}
    if page.after is not None:
        of_channel = "" if channel is None else f"channel={channel}&"
        headers["Link"] = f'<{request.url.path}?{of_channel}limit={limit}&before={_text(page.after)}>; rel="next"'
    return json_response({"entries": [_shown(each) for each in page.letters]}, headers=headers)


@router.delete(
    _PATH,
    operation_id="purgeDeadLetters",
    summary="Put dead letters away",
    responses=documented(200, "How many.", {"purged": 3}, "time_out_of_range"),
    response_class=Response,
)
async def purge_dead_letters(
    context: Context,
    channel: Channel = None,
    before: Annotated[str | None, Query(description="Only those given up before this time.")] = None,
) -> Response:
    """Of all users; without a filter all of them. The deliveries of a user go on telling that they are dead."""
    before_us = None if before is None else _time(before)
    return json_response({"purged": await context.store.dead_letters.purge(_channel(channel), before_us)})


@router.post(
    f"{_PATH}/{{delivery}}/replay",
    operation_id="replayDeadLetter",
    summary="Send a dead letter again",
    status_code=202,
    responses=documented(202, "It is planned anew.", {"id": DEAD_LETTER["id"]}, "not_found"),
    response_class=Response,
)
async def replay_dead_letter(delivery: str, context: Context) -> Response:
    """It is looked at like any other, and may be cancelled by that; it is tried for a day anew."""
    intent = decode_delivery_id(delivery)
    if intent is None or not await context.store.dead_letters.replay(intent, context.clock.now_us()):
        raise Problem("not_found", "There is no such dead letter: it was sent again or purged, or never was one.")
    return json_response({"id": delivery}, 202)


@router.delete(
    f"{_PATH}/{{delivery}}",
    operation_id="purgeDeadLetter",
    summary="Put a dead letter away",
    status_code=204,
    responses=documented(204, "It is none any more, also where it never was one."),
    response_class=Response,
)
async def purge_dead_letter(delivery: str, context: Context) -> Response:
    """The deliveries of its user go on telling that it is dead."""
    intent = decode_delivery_id(delivery)
    if intent is not None:
        await context.store.dead_letters.drop(intent)
    return Response(status_code=204)


def _shown(letter: DeliveryRecord) -> dict[str, Any]:
    at = msgspec.Raw(format_time(letter.history.last_us))
    return {"uid": letter.intent.uid, **shown(letter), "at": at}


def _channel(text: str | None) -> str | None:
    if text is not None and text not in CHANNELS:
        raise Problem("invalid", f"The query parameter channel is one of {', '.join(CHANNELS)}.")
    return text


def _place(text: str | None) -> Place | None:
    """A time, or the place that a link names: a time, and the name of the delivery that the page ended with."""
    if text is None:
        return None
    time, _, name = text.partition("_")
    intent = decode_delivery_id(name) if name else None
    if name and intent is None:
        raise Problem("invalid", "The query parameter before is a time, or as a Link of an earlier page gave it.")
    return _time(time), "" if intent is None else delivery_path(intent)


def _time(text: str) -> int:
    if _TIME.match(text) is None:
        raise Problem("invalid", "The query parameter before is a time, in Unix seconds.")
    return parse_time(float(text) if "." in text else int(text), "/query/before")


def _text(place: Place) -> str:
    at_us, path = place
    return f"{format_time(at_us).decode()}_{encode_delivery_id(parse_delivery_path(path))}"
