"""Addresses that get no mail: those that bounced, and those of who complained."""

from __future__ import annotations

import re
from typing import Annotated, Any, Final

import msgspec
from fastapi import APIRouter, Query, Request, Response

from gregor.core.errors import Problem
from gregor.core.notify.email_address import parse_mailbox
from gregor.core.times import format_time
from gregor.store.contract.suppressions import Suppression
from gregor_ingest.guarded_route import Context, GuardedRoute
from gregor_ingest.request import read_model
from gregor_ingest.responses import body_of, documented, json_response
from gregor_ingest.schemas.examples import SUPPRESSION
from gregor_ingest.schemas.requests import NO_ADDRESS, ReleaseAddress, SuppressAddress

router: Final = APIRouter(route_class=GuardedRoute, tags=["contact"])

_PATH: Final = "/v1/contact/suppressions"
_PLACE: Final = re.compile(r"(\d{1,17})\.([0-9a-f]{64})\Z")
_BODY: Final = ("malformed_json", "message_too_large", "unsupported_media_type", "missing_field")


@router.get(
    _PATH,
    operation_id="listSuppressions",
    summary="Addresses that get no mail",
    responses=documented(200, "A page, the latest first; `Link` with `rel=next` leads on.", {"entries": [SUPPRESSION]}),
    response_class=Response,
)
async def list_suppressions(
    request: Request,
    context: Context,
    before: Annotated[str | None, Query(description="As a `Link` of an earlier page gave it.")] = None,
    limit: Annotated[int, Query(ge=1, le=1_000, description="Entries of a page.")] = 100,
) -> Response:
    """Each with its reason and since when. They are kept until they are deleted."""
    found = await context.store.suppressions.listed(_parse_before(before), limit + 1)
    page, headers = found[:limit], {"Cache-Control": "no-store"}
    if len(found) > limit:
        at_us, name = page[-1].place
        headers["Link"] = f'<{request.url.path}?limit={limit}&before={at_us}.{name}>; rel="next"'
    return json_response({"entries": [_shown(each) for each in page]}, headers=headers)


@router.post(
    _PATH,
    operation_id="suppressAddress",
    summary="Send no more mail to an address",
    status_code=201,
    responses=documented(201, "It gets none any more.", SUPPRESSION, *_BODY),
    openapi_extra=body_of(SuppressAddress.model_json_schema(), {"email": "alice@example.com", "reason": "complaint"}),
    response_class=Response,
)
async def suppress_address(request: Request, context: Context) -> Response:
    """For what a provider of mail tells of bounces and complaints. A reason known before gives way."""
    asked = await read_model(request, context, SuppressAddress)
    now_us = context.clock.now_us()
    made = await context.store.suppressions.suppress(asked.email, asked.reason, now_us)
    return json_response(_shown(made), 201, {"Cache-Control": "no-store"})


@router.delete(
    _PATH,
    operation_id="releaseAddress",
    summary="Send mail to an address again",
    status_code=204,
    responses=documented(204, "It may get mail again, also where it might before.", None, *_BODY),
    openapi_extra=body_of(ReleaseAddress.model_json_schema(), {"email": "alice@example.com"}, is_required=False),
    response_class=Response,
)
async def release_address(
    request: Request,
    context: Context,
    email: Annotated[str | None, Query(description="The address, where the body does not name it.")] = None,
) -> Response:
    """Named in the body, or in the query where a client cannot send one with a DELETE."""
    named = (await read_model(request, context, ReleaseAddress, empty={})).email or email
    if named is None:
        raise Problem("missing_field", "Say which: email in the body, or in the query.")
    if parse_mailbox(named) is None:
        raise Problem("invalid", f"The query parameter email: {NO_ADDRESS}")
    await context.store.suppressions.release(named)
    return Response(status_code=204)


def _parse_before(text: str | None) -> tuple[int, str] | None:
    if text is None:
        return None
    match = _PLACE.match(text)
    if match is None:
        raise Problem("invalid", "The query parameter before is as a Link of an earlier page gave it.")
    return int(match[1]), match[2]


def _shown(suppression: Suppression) -> dict[str, Any]:
    since = msgspec.Raw(format_time(suppression.since_us))
    return {"email": suppression.email, "reason": suppression.reason, "since": since}
