"""``POST /v1/tickets``: tickets for streams of browsers, which cannot send the header ``Authorization``."""

from __future__ import annotations

from typing import Final

from fastapi import APIRouter, Request, Response

from gregor.core.errors import Problem, field_problem
from gregor.core.ids import BACKEND, intersect, normalize_prefixes
from gregor.store.contract.access import Ticket
from gregor_ingest.auth.actor import Actor
from gregor_ingest.guarded_route import Context, CurrentActor, CurrentReadLimiter, GuardedRoute, parse_category_filter
from gregor_ingest.request import BODY_ERRORS, SMALL_BODY_BYTES, read_model
from gregor_ingest.responses import documented, json_response, request_body
from gregor_ingest.schemas.fields import json_time
from gregor_ingest.schemas.requests import CreateTicket
from gregor_ingest.schemas.responses import TicketResponse

router: Final = APIRouter(route_class=GuardedRoute, tags=["tickets"])

LIFETIME_US: Final = 30_000_000
"""How long a ticket is valid: the time between creating it and opening the stream."""
# Charged in addition to the request, because the script reads all tickets of the user.
_WEIGHT: Final = 1
_EXAMPLE: Final = {"ticket": "…", "expires": 1457056477}


@router.post(
    "/v1/tickets",
    operation_id="createTicket",
    summary="Create a ticket for a stream",
    status_code=201,
    responses=documented(
        201, "The ticket, for the query parameter `ticket`.", TicketResponse, _EXAMPLE, *BODY_ERRORS, "missing_field"
    ),
    openapi_extra=request_body(CreateTicket, {"category_prefix": "user"}, is_required=False),
    response_class=Response,
)
async def create_ticket(
    request: Request, context: Context, actor: CurrentActor, limiter: CurrentReadLimiter
) -> Response:
    """A ticket opens one stream of one user, device and view, within 30 seconds. A key gets one for an observer."""
    body = await read_model(request, context, CreateTicket, empty={}, max_bytes=SMALL_BODY_BYTES)
    ticket = _observer_ticket(body, actor) if actor.caller is None else _device_ticket(body, actor)
    await limiter.charge(_WEIGHT)
    now_us = context.clock.now_us()
    text = await context.store.access.create_ticket(ticket, now_us, LIFETIME_US)
    response = TicketResponse(ticket=text, expires=json_time(now_us + LIFETIME_US))
    return json_response(response, 201)


def _device_ticket(body: CreateTicket, actor: Actor) -> Ticket:
    caller = actor.caller
    if caller is None or body.observe:
        raise Problem("forbidden", "Observing needs a service key with the scope read.")
    if body.uid not in (None, caller.uid) or body.device not in (None, caller.device):
        raise Problem("forbidden", "The device token belongs to another user or device.")
    systems = intersect(caller.systems, _systems(body))
    claims = {
        "exp": caller.exp_us / 1_000_000,
        "iat": caller.iat_us / 1_000_000,
        "cats": caller.category_filter,
        "systems": caller.systems,
        "token_key": caller.key_mark,
        "token_claims": caller.claims_mark,
    }
    category_filter = intersect(caller.category_filter, parse_category_filter(body.category_prefix))
    return Ticket(caller.uid, caller.device, False, category_filter, systems, claims)


def _observer_ticket(body: CreateTicket, actor: Actor) -> Ticket:
    if not body.observe:
        raise Problem("forbidden", "A service key gets tickets for observers only: set observe to true.")
    if body.uid is None:
        raise field_problem("missing_field", "/uid", "uid is missing: name the user to observe.")
    claims = {
        "key": actor.key.id if actor.key is not None else None,
        "rate": actor.key.rate if actor.key is not None else None,
        "secret": actor.secret_mark,
        "cats": actor.category_filter,
        "systems": actor.systems,
    }
    category_filter = intersect(actor.category_filter, parse_category_filter(body.category_prefix))
    systems = intersect(actor.systems, _systems(body))
    return Ticket(body.uid, body.device or BACKEND, True, category_filter, systems, claims)


def _systems(body: CreateTicket) -> tuple[str, ...] | None:
    return None if body.systems is None else normalize_prefixes(body.systems)
