"""What only an administrator's key may do: flush one user or all, delete a user."""

from __future__ import annotations

from typing import Final

from fastapi import APIRouter, Request, Response

from gregor.core.items.sync import cursor_for
from gregor.core.messages.model import Message, UserReset
from gregor_ingest.guarded_route import Context, CurrentActor, GuardedRoute
from gregor_ingest.request import read_model
from gregor_ingest.responses import body_of, documented, json_response
from gregor_ingest.routes.messages.messages import authorize_message, with_idempotency_key
from gregor_ingest.schemas.requests import EmptyBody, ResetAllUsers

router: Final = APIRouter(route_class=GuardedRoute, tags=["administration"])

_BODY: Final = ("malformed_json", "message_too_large", "unsupported_media_type")


@router.post(
    "/v1/users/{uid}/flush",
    operation_id="flushUser",
    summary="Start a new epoch of a user",
    responses=documented(200, "The position.", {"cursor": "77b2e4-3"}, *_BODY, "id_reused"),
    openapi_extra=body_of(EmptyBody.model_json_schema(), {}, is_required=False),
    response_class=Response,
)
async def reset_user(uid: str, request: Request, context: Context, actor: CurrentActor) -> Response:
    """Every device gets a full copy soon. Items, dismissals and history stay; seq goes on."""
    await read_model(request, context, EmptyBody, empty={})
    message = with_idempotency_key(Message(UserReset()), request.scope["gregor.headers"])
    sender, view = authorize_message(message, actor)
    receipt = await context.submitter.commit(uid, context.submitter.plan(message, sender))
    return json_response({"cursor": str(cursor_for(receipt.epoch, view, receipt.seq))})


@router.post(
    "/v1/flush",
    operation_id="flushAll",
    summary="Start a new epoch of every user",
    status_code=202,
    responses=documented(202, "It has begun.", {"spread": 30}, *_BODY),
    openapi_extra=body_of(ResetAllUsers.model_json_schema(), {"spread": 30}, is_required=False),
    response_class=Response,
)
async def reset_all_users(request: Request, context: Context) -> Response:
    """Connected devices get a full copy within the spread, in seconds; the others when they come back."""
    asked = await read_model(request, context, ResetAllUsers, empty={})
    spread_s = round(context.settings.flush_spread_s) if asked.spread is None else asked.spread
    await context.store.users.reset_all_users(spread_s)
    return json_response({"spread": spread_s}, 202)


@router.delete(
    "/v1/users/{uid}",
    operation_id="deleteUser",
    summary="Forget a user whole",
    status_code=204,
    responses=documented(204, "Forgotten, also where never seen."),
    response_class=Response,
)
async def delete_user(uid: str, context: Context) -> Response:
    """State, history and devices go, tokens are void, connections closed. A later message starts a new epoch."""
    await context.store.users.delete_user(uid, context.clock.now_us())
    return Response(status_code=204)
