"""Administration of users: reset one user or all of them, export or delete a user."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Final

from fastapi import APIRouter, Request, Response
from starlette.responses import StreamingResponse

from gregor.core.errors import Problem
from gregor.core.items.sync import cursor_for
from gregor.core.limits import CLOCK_LEEWAY_US
from gregor.core.messages.model import Message, UserReset
from gregor.jobs.reset_all import FLUSH
from gregor.web.request import CONFIRM_AFTER_S
from gregor_ingest.context import IngestContext
from gregor_ingest.guarded_route import Context, CurrentActor, CurrentReadLimiter, GuardedRoute
from gregor_ingest.request import BODY_ERRORS, NDJSON, read_model
from gregor_ingest.responses import component_reference, documented, json_response, request_body
from gregor_ingest.routes.messages.durability import HEADER
from gregor_ingest.routes.messages.messages import authorize_message, with_idempotency_key
from gregor_ingest.schemas.examples import EXPORT
from gregor_ingest.schemas.requests import EmptyBody, ResetAllUsers
from gregor_ingest.schemas.responses import PositionResponse, SpreadResponse

from .export import export_chunks
from .jobs import new_job_id

router: Final = APIRouter(route_class=GuardedRoute, tags=["administration"])

FLUSH_WAIT_S: Final = 2.0
"""How long a request waits for the reset of all users. The job goes on afterwards."""
DELETION_WAIT_S: Final = CONFIRM_AFTER_S + 0.3
"""Time between revoking the tokens of a user and deleting it. By then, earlier requests have ended or are refused.

If a process stalls, a request may write after the deletion. The scripts that store messages therefore check the
revocation themselves.
"""
_EXPORT: Final = {
    "description": "Lines, from `begin` to `end`. A response without `end` is not complete.",
    "content": {
        NDJSON: {
            "schema": {
                "type": "string",
                "contentMediaType": NDJSON,
                "contentSchema": component_reference("ExportLine"),
            },
            "example": EXPORT,
        }
    },
}


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
    responses=documented(
        202,
        "The reset has begun.",
        SpreadResponse,
        {"spread": 30},
        *(*BODY_ERRORS, "id_reused", "too_many"),
        location="The address of the job.",
    ),
    openapi_extra=request_body(ResetAllUsers, {"spread": 30}, is_required=False),
    response_class=Response,
)
async def reset_all_users(request: Request, context: Context) -> Response:
    """Start a new epoch of every user. Connected devices get a full copy within the spread; others on reconnect.

    A job does it, which continues if this process dies or a Redis server is unreachable. A repeat with the same id
    resets nothing again.
    """
    body = await read_model(request, context, ResetAllUsers, empty={})
    job_id = new_job_id(request, body.id, FLUSH)
    default_s = round(context.settings.flush_spread_s)
    job, _ = await context.store.jobs.create(
        job_id,
        FLUSH,
        {"spread": default_s if body.spread is None else body.spread},
        context.clock.now_us(),
    )
    spread_s = job.params.get("spread")
    if job.kind != FLUSH or spread_s is None or (body.spread is not None and body.spread != spread_s):
        raise Problem("id_reused", f"The id {job.id} belongs to another job, or to a flush with another spread.")
    # It ends within milliseconds, unless a Redis server is unreachable.
    await asyncio.wait([context.jobs.start(job.id)], timeout=FLUSH_WAIT_S)
    return json_response(SpreadResponse(spread_s), 202, {"Location": f"/v1/jobs/{job.id}"})


@router.get(
    "/v1/users/{uid}/export",
    operation_id="exportUser",
    summary="Export a user",
    responses={**documented(200, "Lines."), 200: _EXPORT},
    response_class=Response,
)
async def export_user(uid: str, request: Request, context: Context, limiter: CurrentReadLimiter) -> Response:
    """Return all that is stored of a user, one JSON object a line, from `begin` to `end`."""
    await limiter.charge_stored(uid, has_past=True)
    if request.scope["gregor.is_head"]:
        return Response(media_type=NDJSON)
    chunks = export_chunks(context.store, uid, context.clock.now_us())
    return StreamingResponse(_confirmed(chunks, request, context), media_type=NDJSON)


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
    now_us = context.clock.now_us()
    # With the leeway, because the clock of the login service that issued a token may be ahead.
    await context.store.devices.revoke(uid, None, now_us + CLOCK_LEEWAY_US, now_us)
    await asyncio.sleep(DELETION_WAIT_S)
    await context.store.users.delete_user(uid, context.clock.now_us())
    return Response(status_code=204)


async def _confirmed(chunks: AsyncIterator[bytes], request: Request, context: IngestContext) -> AsyncIterator[bytes]:
    """Yield the chunks of a response while its caller keeps its rights; then the response breaks off."""
    async for chunk in chunks:
        await context.authorizer.confirm(request.scope)
        yield chunk
