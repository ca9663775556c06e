"""``POST /v1/broadcast``: one external message to many users, by a job."""

from __future__ import annotations

from typing import Final

import msgspec
from fastapi import APIRouter, Request, Response

from gregor.core.errors import Problem, field_problem
from gregor.core.ids import GREGOR
from gregor.core.json_text import canonical_json
from gregor.core.limits import Limits
from gregor.core.messages.model import ExternalMessage
from gregor.jobs.broadcast import BROADCAST, BroadcastParams
from gregor_ingest.guarded_route import Context, GuardedRoute, add_audit_target
from gregor_ingest.request import BODY_ERRORS, read_model
from gregor_ingest.responses import documented, json_response, request_body
from gregor_ingest.routes.admin.jobs import job_response, new_job_id
from gregor_ingest.schemas.examples import BROADCAST_JOB
from gregor_ingest.schemas.requests import MAX_BROADCAST_BYTES, Broadcast
from gregor_ingest.schemas.responses import JobResponse

router: Final = APIRouter(route_class=GuardedRoute, tags=["messages"])

_NOT_GREGOR: Final = (
    "A broadcast is an external message: name your own system. Items are created for each user, with POST /v1/messages."
)


@router.post(
    "/v1/broadcast",
    operation_id="broadcast",
    summary="Send an external message to many users",
    status_code=202,
    responses=documented(
        202,
        "The job that sends the message.",
        JobResponse,
        BROADCAST_JOB,
        *BODY_ERRORS,
        "missing_field",
        "id_reused",
        "too_many",
        location="The address of the job.",
    ),
    openapi_extra=request_body(Broadcast, {"system": "kbfs.favorites", "body": {"action": "reload"}, "spread": 60}),
    response_class=Response,
)
async def broadcast(request: Request, context: Context) -> Response:
    """Send an external message to all users with a connection, or to all known users, spread over some time.

    A job does it, and continues if a process dies; each user gets the message once. A repeat with the same id sends
    nothing again.
    """
    body = await read_model(request, context, Broadcast)
    job_id = new_job_id(request, body.id, BROADCAST)
    default_s = round(context.settings.flush_spread_s)
    params = BroadcastParams(body.system, body.body, default_s if body.spread is None else body.spread, body.audience)
    _check_message(params, context.limits)
    add_audit_target(request, system=params.system)
    stored_params = msgspec.to_builtins(params)
    job, is_new = await context.store.jobs.create(
        job_id, BROADCAST, stored_params, context.clock.now_us(), leaves_reserve=True
    )
    # Compared as JSON: in Python, true equals 1.
    if not is_new and (job.kind != BROADCAST or canonical_json(job.params) != canonical_json(stored_params)):
        raise Problem("id_reused", f"The id {job.id} belongs to another job, or to another broadcast.")
    return json_response(job_response(job), 202, {"Location": f"/v1/jobs/{job.id}"})


def _check_message(params: BroadcastParams, limits: Limits) -> None:
    """Raise ``Problem`` unless the parameters make an external message with a short body."""
    if params.system == GREGOR:
        raise field_problem("invalid", "/system", _NOT_GREGOR)
    content = params.message(limits).content
    size = len(content.body) if isinstance(content, ExternalMessage) else 0
    if size > MAX_BROADCAST_BYTES:
        detail = (
            f"A broadcast body may have {MAX_BROADCAST_BYTES} bytes, this one has {size}. Send a reference to the data."
        )
        raise field_problem("message_too_large", "/body", detail)
