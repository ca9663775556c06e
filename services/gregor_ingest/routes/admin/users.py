"""Administration of users: reset one user or all of them, delete a user."""

from __future__ import annotations

from typing import Final

from fastapi import APIRouter, Request, Response

from gregor.core.errors import Problem
from gregor.core.items.sync import cursor_for
from gregor.core.messages.model import Message, UserReset
from gregor_ingest.guarded_route import Context, CurrentActor, GuardedRoute
from gregor_ingest.request import BODY_ERRORS, read_model
from gregor_ingest.responses import documented, json_response, request_body
from gregor_ingest.routes.messages.durability import HEADER
from gregor_ingest.routes.messages.messages import authorize_message, with_idempotency_key
from gregor_ingest.schemas.requests import EmptyBody, ResetAllUsers
from gregor_ingest.schemas.responses import PositionResponse, SpreadResponse

router: Final = APIRouter(route_class=GuardedRoute, tags=["administration"])


@router.post(
    "/v1/users/{uid}/flush",
    operation_id="flushUser",
    summary="Reset a user",
    responses=documented(200, "The new position.", PositionResponse, {"cursor": "77b2e4-3"}, *BODY_ERRORS, "id_reused"),
    openapi_extra=request_body(EmptyBody, {}, is_required=False),
    response_class=Response,
)
async def reset_user(uid: str, request: Request, context: Context, actor: CurrentActor) -> Response:
    """Start a new epoch: every device gets a full copy soon. Items, dismissals, history and seq stay."""
    await read_model(request, context, EmptyBody, empty={})
    if HEADER in request.scope["gregor.headers"]:
        raise Problem("invalid", "The header Gregor-Durability is for messages; send the flush as a message.")
    message = with_idempotency_key(Message(UserReset()), request.scope["gregor.headers"])
    sender, view = authorize_message(message, actor)
    receipt = await context.submitter.commit(uid, context.submitter.plan(message, sender))
    return json_response(PositionResponse(str(cursor_for(receipt.epoch, view, receipt.seq))))


@router.post(
    "/v1/flush",
    operation_id="flushAll",
    summary="Reset all users",
    status_code=202,
    responses=documented(202, "The reset has begun.", SpreadResponse, {"spread": 30}, *BODY_ERRORS),
    openapi_extra=request_body(ResetAllUsers, {"spread": 30}, is_required=False),
    response_class=Response,
)
async def reset_all_users(request: Request, context: Context) -> Response:
    """Start a new epoch of every user. Connected devices get a full copy within the spread; others on reconnect."""
    body = await read_model(request, context, ResetAllUsers, empty={})
    spread_s = round(context.settings.flush_spread_s) if body.spread is None else body.spread
    await context.store.users.reset_all_users(spread_s)
    return json_response(SpreadResponse(spread_s), 202)


@router.delete(
    "/v1/users/{uid}",
    operation_id="deleteUser",
    summary="Delete a user",
    status_code=204,
    responses=documented(204, "The user is deleted, or never existed."),
    response_class=Response,
)
async def delete_user(uid: str, context: Context) -> Response:
    """Delete state, history and devices, revoke tokens and close connections. A later message starts a new epoch."""
    await context.store.users.delete_user(uid, context.clock.now_us())
    return Response(status_code=204)
