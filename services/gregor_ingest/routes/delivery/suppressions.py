"""Suppressed addresses: they get no e-mail, after a bounce, a complaint, or by hand."""

from __future__ import annotations

import re
from typing import Annotated, Final

from fastapi import APIRouter, Query, Request, Response

from gregor.core.errors import Problem, field_problem
from gregor.core.items.read_cost import listing_weight
from gregor.core.notify.email_address import parse_mailbox
from gregor.store.contract.suppressions import Suppression, hash_of
from gregor_ingest.guarded_route import Context, CurrentReadLimiter, GuardedRoute, add_audit_target
from gregor_ingest.pagination import BEFORE_DESCRIPTION, DEFAULT_LIMIT, Limit, invalid_before, next_link
from gregor_ingest.request import BODY_ERRORS, read_model
from gregor_ingest.responses import documented, json_response, request_body
from gregor_ingest.schemas.examples import SUPPRESSION
from gregor_ingest.schemas.fields import NO_ADDRESS, json_time
from gregor_ingest.schemas.requests import ReleaseAddress, SuppressAddress
from gregor_ingest.schemas.responses import SuppressionResponse, SuppressionsResponse

router: Final = APIRouter(route_class=GuardedRoute, tags=["contact"])

_PATH: Final = "/v1/contact/suppressions"
_BEFORE: Final = re.compile(r"(\d{1,17})\.([0-9a-f]{64})\Z")


@router.get(
    _PATH,
    operation_id="listSuppressions",
    summary="List suppressed addresses",
    responses=documented(
        200,
        "A page, newest first; the header `Link` has the next one.",
        SuppressionsResponse,
        {"entries": [SUPPRESSION]},
    ),
    response_class=Response,
)
async def list_suppressions(
    request: Request,
    context: Context,
    limiter: CurrentReadLimiter,
    before: Annotated[str | None, Query(description=BEFORE_DESCRIPTION, min_length=1)] = None,
    limit: Limit = DEFAULT_LIMIT,
) -> Response:
    """Return suppressed addresses with reason and time. They are kept until they are released."""
    position = _parse_before(before)
    await limiter.charge(listing_weight(limit))
    found = await context.store.suppressions.listed(position, limit + 1)
    page, headers = found[:limit], None
    if len(found) > limit:
        at_us, name = page[-1].position
        headers = next_link(request, f"{at_us}.{name}")
    return json_response(SuppressionsResponse([_response(each) for each in page]), headers=headers)


@router.post(
    _PATH,
    operation_id="suppressAddress",
    summary="Suppress an address",
    status_code=201,
    responses=documented(
        201, "The address gets no e-mail.", SuppressionResponse, SUPPRESSION, *BODY_ERRORS, "missing_field"
    ),
    openapi_extra=request_body(SuppressAddress, {"email": "alice@example.com", "reason": "complaint"}),
    response_class=Response,
)
async def suppress_address(request: Request, context: Context) -> Response:
    """Suppress an address, for bounces and complaints that a mail provider reports. Replaces an earlier reason."""
    body = await read_model(request, context, SuppressAddress)
    add_audit_target(request, address=hash_of(body.email))
    suppression = await context.store.suppressions.suppress(body.email, body.reason, context.clock.now_us())
    return json_response(_response(suppression), 201)


@router.delete(
    _PATH,
    operation_id="releaseAddress",
    summary="Release a suppressed address",
    status_code=204,
    responses=documented(
        204, "The address may get e-mail, or was never suppressed.", None, None, *BODY_ERRORS, "missing_field"
    ),
    openapi_extra=request_body(ReleaseAddress, {"email": "alice@example.com"}, is_required=False),
    response_class=Response,
)
async def release_address(
    request: Request,
    context: Context,
    email: Annotated[str | None, Query(description="The address, if it is not in the body.")] = None,
) -> Response:
    """Release an address: in the body, or in the query if a client cannot send a body with DELETE."""
    address = (await read_model(request, context, ReleaseAddress, empty={})).email
    if address is not None and email is not None and address != email:
        raise field_problem("invalid", "/email", "This is not the address of the query. Name one address in a request.")
    address = address or email
    if address is None:
        raise Problem("missing_field", "Name the address: email in the body or in the query.")
    if parse_mailbox(address) is None:
        raise Problem("invalid", f"The query parameter email: {NO_ADDRESS}")
    add_audit_target(request, address=hash_of(address))
    await context.store.suppressions.release(address)
    return Response(status_code=204)


def _parse_before(text: str | None) -> tuple[int, str] | None:
    if text is None:
        return None
    match = _BEFORE.match(text)
    if match is None:
        raise invalid_before()
    return int(match[1]), match[2]


def _response(suppression: Suppression) -> SuppressionResponse:
    since = json_time(suppression.since_us)
    return SuppressionResponse(email=suppression.email, reason=suppression.reason, since=since)
