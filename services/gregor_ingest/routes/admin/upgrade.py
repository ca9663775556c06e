"""Upgrade: which formats the running processes read and write, and the end of an upgrade."""

from __future__ import annotations

from typing import Final

from fastapi import APIRouter, Response

from gregor.store.formats import DeploymentFormats
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
        200, "All processes write the newest format, within 20 seconds.", UpgradeResponse, UPGRADE, "upgrade_blocked"
    ),
    response_class=Response,
)
async def finish_upgrade(context: Context) -> Response:
    """Let all processes write the newest format. From then on, releases that cannot read it do not start.

    Refused while a running process cannot read it. Repeatable.
    """
    return json_response(_upgrade(await context.store.deployment.finish_upgrade()))


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
                reads=each.reads,
                writes=each.writes,
                blocks=each.process in blocking,
            )
            for each in sorted(formats.processes, key=lambda each: (each.service, each.process))
        ],
    )
