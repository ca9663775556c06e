"""The public VAPID key, which browsers need for a Web Push subscription. Open, because the key is public."""

from __future__ import annotations

from typing import Final

from fastapi import APIRouter, Request, Response

from gregor.core.errors import Problem
from gregor_ingest.guarded_route import Context, OpenRoute
from gregor_ingest.request import parse_query
from gregor_ingest.responses import json_content, json_response, problems
from gregor_ingest.schemas.responses import WebPushKeyResponse

router: Final = APIRouter(route_class=OpenRoute, tags=["devices"])

_PUBLIC_KEY: Final = {
    "public_key": "BNcRdreALRFXTkOOUHK1EtK2wtaz5Ry4YfYCA_0QTpQtUbVlUls0VJXg7A8u-Ts1XbjhazAkj7I99e8QcYP7DkM"
}
_CACHED: Final = {"Cache-Control": "public, max-age=300"}


@router.get(
    "/v1/push/webpush",
    operation_id="readWebPushKey",
    summary="Get the Web Push public key",
    responses={
        200: {
            "description": "The key, for `applicationServerKey`.",
            "content": json_content(WebPushKeyResponse, _PUBLIC_KEY),
        },
        **problems("not_found", "unknown_field"),
    },
    response_class=Response,
)
async def read_webpush_key(request: Request, context: Context) -> Response:
    """Return the public VAPID key, base64url. 404 if Web Push is not configured."""
    parse_query(request.scope["query_string"])
    if context.webpush_key is None:
        raise Problem("not_found", "Web Push is not configured: set GREGOR_VAPID_KEY_FILE.")
    return json_response(WebPushKeyResponse(context.webpush_key), headers=_CACHED)
