"""Jobs: list, start, show and cancel long work, such as a reset of all users, or a message to all of them."""

from __future__ import annotations

import secrets
from typing import Annotated, Final

from fastapi import APIRouter, Query, Request, Response

from gregor.core.errors import Problem
from gregor.jobs.kinds import JOB_KINDS
from gregor.jobs.runner import cancel_job
from gregor.store.jobs import Job
from gregor_ingest.auth.actor import Actor
from gregor_ingest.context import IngestContext
from gregor_ingest.guarded_route import Context, CurrentActor, GuardedRoute, add_audit_target
from gregor_ingest.pagination import BEFORE_DESCRIPTION, DEFAULT_LIMIT, Limit, next_link
from gregor_ingest.request import BODY_ERRORS, read_model
from gregor_ingest.responses import documented, json_response, request_body
from gregor_ingest.routes.messages.messages import idempotency_key
from gregor_ingest.schemas.examples import AUDIT_JOB, JOB
from gregor_ingest.schemas.fields import json_time
from gregor_ingest.schemas.requests import StartJob
from gregor_ingest.schemas.responses import JobResponse, JobsResponse

router: Final = APIRouter(route_class=GuardedRoute, tags=["administration"])

_PATH: Final = "/v1/jobs/{job}"
_Before = Annotated[int | None, Query(description=BEFORE_DESCRIPTION, ge=0, lt=10**16)]


@router.get(
    "/v1/jobs",
    operation_id="listJobs",
    summary="List jobs",
    responses=documented(
        200, "A page, newest first; the header `Link` has the next one.", JobsResponse, {"jobs": [JOB]}
    ),
    response_class=Response,
)
async def list_jobs(
    request: Request, context: Context, actor: CurrentActor, before: _Before = None, limit: Limit = DEFAULT_LIMIT
) -> Response:
    """Return the jobs that wait or run, and those that ended in the last two weeks.

    A page has fewer entries if the key may not see all jobs.
    """
    page = await context.store.jobs.page(before, limit)
    jobs = [job_response(job) for job in page.jobs if _may_see(actor, job)]
    return json_response(
        JobsResponse(jobs), headers={} if page.before is None else next_link(request, str(page.before))
    )


@router.post(
    "/v1/jobs",
    operation_id="startJob",
    summary="Start a job",
    status_code=202,
    responses=documented(
        202,
        "The job.",
        JobResponse,
        AUDIT_JOB,
        *(*BODY_ERRORS, "missing_field", "id_reused", "too_many"),
        location="The address of the job.",
    ),
    openapi_extra=request_body(StartJob, {"kind": "audit"}),
    response_class=Response,
)
async def start_job(request: Request, context: Context) -> Response:
    """Start an audit: a scheduler compares the digests of all known users with their items, and changes nothing.

    A flush and a broadcast have their own endpoints. A repeat with the same id starts no second job.
    """
    body = await read_model(request, context, StartJob)
    job_id = new_job_id(request, body.id, body.kind)
    add_audit_target(request, kind=body.kind)
    job, _ = await context.store.jobs.create(job_id, body.kind, {}, context.clock.now_us())
    if job.kind != body.kind:
        raise Problem("id_reused", f"The id {job.id} belongs to another job.")
    return json_response(job_response(job), 202, {"Location": f"/v1/jobs/{job.id}"})


@router.get(
    _PATH,
    operation_id="getJob",
    summary="Get a job",
    responses=documented(200, "The job.", JobResponse, JOB, "not_found"),
    response_class=Response,
)
async def get_job(job: str, context: Context, actor: CurrentActor) -> Response:
    """Return a job with its progress."""
    return json_response(job_response(await _find(job, context, actor)))


@router.delete(
    _PATH,
    operation_id="cancelJob",
    summary="Cancel a job",
    responses=documented(
        200, "The job, which is over now.", JobResponse, {**JOB, "state": "cancelled", "done": 512}, "not_found"
    ),
    response_class=Response,
)
async def cancel(job: str, context: Context, actor: CurrentActor) -> Response:
    """Stop a job after its running step. Its finished steps stay. A job that is over is not changed."""
    found = await _find(job, context, actor)
    cancelled = await cancel_job(context.store.jobs, job, context.clock.now_us())
    return json_response(job_response(cancelled or found))


def new_job_id(request: Request, field_id: str | None, kind: str) -> str:
    """Return the id of a new job: that of the request, else a random one.

    Raises ``Problem`` for the id that a job of another kind could have: it must not take the place of such a job.
    """
    given_id = idempotency_key(request.scope["gregor.headers"], field_id)
    if given_id is None:
        return f"{kind}-{secrets.token_hex(8)}"
    prefix, dash, _ = given_id.partition("-")
    if dash and prefix != kind and prefix in JOB_KINDS:
        raise Problem("invalid_id", f"An id that begins with {prefix}- is for jobs of that kind. Choose another id.")
    return given_id


def job_response(job: Job) -> JobResponse:
    """Return a job as the API shows it."""
    return JobResponse(
        id=job.id,
        kind=job.kind,
        state=job.state.value,
        params=job.params,
        done=job.done,
        total=job.total,
        created=json_time(job.created_us),
        changed=json_time(job.changed_us),
        reason=job.reason,
        result=job.result,
    )


async def _find(job_id: str, context: IngestContext, actor: Actor) -> Job:
    """Return a job. Raises ``not_found`` if it is unknown, or of a kind that the key may not see."""
    job = await context.store.jobs.get(job_id)
    if job is None or not _may_see(actor, job):
        raise Problem("not_found", "The id of the job is unknown. Jobs are kept for two weeks after their end.")
    return job


def _may_see(actor: Actor, job: Job) -> bool:
    kind = JOB_KINDS.get(job.kind)
    # A kind of a later release is unknown here: only administrators see such a job.
    scopes = {"admin"} if kind is None else kind.scopes
    return any(actor.has_scope(scope) for scope in scopes)
