"""``POST /v1/tickets``: for streams of browsers, which cannot send a header."""

from __future__ import annotations

from typing import Final

import msgspec
from fastapi import APIRouter, Request, Response

from gregor.core.errors import Problem, field_problem
from gregor.core.ids import BACKEND, intersect, normalize_prefixes
from gregor.core.times import format_time
from gregor.store.contract.access import Ticket
from gregor_ingest.auth import Actor
from gregor_ingest.guarded_route import Context, CurrentActor, GuardedRoute, prefixes_of
from gregor_ingest.request import read_model
from gregor_ingest.responses import body_of, documented, json_response
from gregor_ingest.schemas.requests import CreateTicket

router: Final = APIRouter(route_class=GuardedRoute, tags=["tickets"])

LIVES_US: Final = 30_000_000
"""How long a ticket waits for its stream (protocol.md, "Tickets")."""
_BODY: Final = ("malformed_json", "message_too_large", "unsupported_media_type", "missing_field")


@router.post(
    "/v1/tickets",
    operation_id="createTicket",
    summary="A ticket for a stream",
    status_code=201,
    responses=documented(201, "The ticket, for `?ticket=`.", {"ticket": "…", "expires": 1457056477}, *_BODY),
    openapi_extra=body_of(CreateTicket.model_json_schema(), {"category_prefix": "user"}, is_required=False),
    response_class=Response,
)
async def create_ticket(request: Request, context: Context, actor: CurrentActor) -> Response:
    """Good for 30 seconds, once, for one user, device and view. A key gets one that observes only."""
    asked = await read_model(request, context, CreateTicket, empty={})
    now_us = context.clock.now_us()
    ticket = _observing(asked, actor) if actor.caller is None else _own(asked, actor)
    text = await context.store.access.create_ticket(ticket, now_us, LIVES_US)
    expires = msgspec.Raw(format_time(now_us + LIVES_US))
    return json_response({"ticket": text, "expires": expires}, 201, {"Cache-Control": "no-store"})


def _own(asked: CreateTicket, actor: Actor) -> Ticket:
    caller = actor.caller
    if caller is None or asked.observe:
        raise Problem("forbidden", "Observing needs a service key with the scope read.")
    if asked.uid not in (None, caller.uid) or asked.device not in (None, caller.device):
        raise Problem("forbidden", "The token is of another user or device.")
    systems = intersect(caller.systems, _systems(asked))
    claims = {
        "exp": caller.exp_us / 1_000_000,
        "iat": caller.iat_us / 1_000_000,
        "cats": caller.category_filter,
        "systems": caller.systems,
    }
    view = intersect(caller.category_filter, prefixes_of(asked.category_prefix))
    return Ticket(caller.uid, caller.device, False, view, systems, claims)


def _observing(asked: CreateTicket, actor: Actor) -> Ticket:
    if not asked.observe:
        raise Problem("forbidden", "A service key gets observing tickets only: set observe.")
    if asked.uid is None:
        raise field_problem("missing_field", "/uid", "Name the user to observe.")
    key_id = actor.key.id if actor.key is not None else None
    claims = {"key": key_id, "secret": actor.secret_mark, "cats": actor.category_filter}
    view = intersect(actor.category_filter, prefixes_of(asked.category_prefix))
    return Ticket(asked.uid, asked.device or BACKEND, True, view, _systems(asked), claims)


def _systems(asked: CreateTicket) -> tuple[str, ...] | None:
    return None if asked.systems is None else normalize_prefixes(asked.systems)
