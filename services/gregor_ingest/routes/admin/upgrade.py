"""Upgrade: which formats the running processes read and write, and the end of an upgrade."""

from __future__ import annotations

import secrets
from typing import Final

from fastapi import APIRouter, Response

from gregor.jobs.rewrite import REWRITE
from gregor.store.formats import DeploymentFormats, rewrite_job
from gregor_ingest.guarded_route import Context, GuardedRoute
from gregor_ingest.responses import documented, json_response
from gregor_ingest.schemas.examples import UPGRADE
from gregor_ingest.schemas.responses import UpgradeProcessResponse, UpgradeResponse

router: Final = APIRouter(route_class=GuardedRoute, tags=["administration"])


@router.get(
    "/v1/upgrade",
    operation_id="getUpgrade",
    summary="Get the state of an upgrade",
    responses=documented(200, "The formats of the deployment.", UpgradeResponse, UPGRADE),
    response_class=Response,
)
async def get_upgrade(context: Context) -> Response:
    """Return the written format, and which formats each running process reads and writes."""
    return json_response(_upgrade(await context.store.deployment.formats()))


@router.post(
    "/v1/upgrade/finish",
    operation_id="finishUpgrade",
    summary="Finish an upgrade",
    responses=documented(
        200,
        "All processes write the newest format, within 20 seconds.",
        UpgradeResponse,
        UPGRADE,
        "upgrade_blocked",
        "too_many",
        location="The address of the job that rewrites the stored values, unless there is nothing to rewrite.",
    ),
    response_class=Response,
)
async def finish_upgrade(context: Context) -> Response:
    """Let all processes write the newest format. From then on, releases that cannot read it do not start.

    Refused while a running process cannot read it. A job then rewrites the stored values. A repeat starts
    it again if it did not succeed.
    """
    formats = await context.store.deployment.finish_upgrade()
    headers = {"Location": f"/v1/jobs/{await _rewriting_job(context, formats)}"} if formats.is_mixed else {}
    return json_response(_upgrade(formats), headers=headers)


async def _rewriting_job(context: Context, formats: DeploymentFormats) -> str:
    """Create the job that rewrites the stored values, unless it is open. Returns its id."""
    number, now_us = formats.written.number, context.clock.now_us()
    job, _ = await context.store.jobs.create(rewrite_job(number), REWRITE, {"format": number}, now_us)
    if job.is_over:
        again = f"{job.id}-{secrets.token_hex(4)}"
        job, _ = await context.store.jobs.create(again, REWRITE, {"format": number}, now_us)
    return job.id


def _upgrade(formats: DeploymentFormats) -> UpgradeResponse:
    blocking = {each.process for each in formats.blocking}
    return UpgradeResponse(
        state=formats.state,
        written=formats.written.number,
        newest=formats.newest,
        oldest=formats.written.oldest,
        release=formats.written.release,
        processes=[
            UpgradeProcessResponse(
                process=each.process,
                service=each.service,
                release=each.release,
                reads=list(each.reads),
                writes=each.writes,
                blocks=each.process in blocking,
            )
            for each in sorted(formats.processes, key=lambda each: (each.service, each.process))
        ],
    )
