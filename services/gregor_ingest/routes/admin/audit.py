"""``GET /v1/audit``: which service key changed what, and when."""

from __future__ import annotations

import re
from typing import Annotated, Final

import msgspec
from fastapi import APIRouter, Query, Request, Response

from gregor.store.contract.access import AuditEvent
from gregor_ingest.guarded_route import Context, GuardedRoute
from gregor_ingest.pagination import BEFORE_DESCRIPTION, DEFAULT_LIMIT, Limit, invalid_before, next_link
from gregor_ingest.responses import documented, json_response
from gregor_ingest.schemas.examples import AUDIT_EVENT
from gregor_ingest.schemas.responses import AuditEventResponse, AuditEventsResponse

router: Final = APIRouter(route_class=GuardedRoute, tags=["administration"])

_POSITION: Final = re.compile(r"[0-9]{1,19}-[0-9]{1,19}\Z")
_BEFORE: Final = Query(description=BEFORE_DESCRIPTION, json_schema_extra={"pattern": "^[0-9]{1,19}-[0-9]{1,19}$"})
_event: Final = msgspec.json.Decoder(AuditEvent).decode


@router.get(
    "/v1/audit",
    operation_id="listAuditEvents",
    summary="List the audit trail",
    responses=documented(
        200,
        "A page, newest first; the header `Link` has the next one.",
        AuditEventsResponse,
        {"entries": [AUDIT_EVENT]},
    ),
    response_class=Response,
)
async def list_audit_events(
    request: Request, context: Context, before: Annotated[str | None, _BEFORE] = None, limit: Limit = DEFAULT_LIMIT
) -> Response:
    """Return the newest 100,000 writes of service keys with the scopes admin, devices, deliveries or categories."""
    if before is not None and _POSITION.match(before) is None:
        raise invalid_before()
    # One more than the page, to know if there is a next one.
    found = await context.store.access.audit_page(before, limit + 1)
    page = found[:limit]
    headers = next_link(request, page[-1][0]) if len(found) > limit else None
    events = [AuditEventResponse(**msgspec.structs.asdict(_event(raw))) for _, raw in page]
    return json_response(AuditEventsResponse(events), headers=headers)
