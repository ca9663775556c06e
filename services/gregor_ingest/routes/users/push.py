"""What an app needs to register for push. Open: the public half of a key is for everybody."""

from __future__ import annotations

from typing import Final

from fastapi import APIRouter, Request, Response

from gregor.core.errors import Problem
from gregor_ingest.guarded_route import Context, OpenRoute
from gregor_ingest.request import parse_query
from gregor_ingest.responses import json_response, problems

router: Final = APIRouter(route_class=OpenRoute, tags=["devices"])

_PUBLIC_KEY: Final = {
    "public_key": "BNcRdreALRFXTkOOUHK1EtK2wtaz5Ry4YfYCA_0QTpQtUbVlUls0VJXg7A8u-Ts1XbjhazAkj7I99e8QcYP7DkM"
}
_FRESH: Final = {"Cache-Control": "public, max-age=300"}


@router.get(
    "/v1/push/webpush",
    operation_id="readWebPushKey",
    summary="The key to subscribe a browser with",
    responses={
        200: {
            "description": "The key, as `applicationServerKey` takes it.",
            "content": {"application/json": {"schema": {"type": "object"}, "example": _PUBLIC_KEY}},
        },
        **problems("not_found", "unknown_field"),
    },
    response_class=Response,
)
async def read_webpush_key(request: Request, context: Context) -> Response:
    """Our public key (VAPID, base64url): a browser lets pushes in from its owner alone. 404 where none is set up."""
    parse_query(request.scope["query_string"])
    if context.webpush_key is None:
        raise Problem("not_found", "Web Push is not set up here: GREGOR_VAPID_KEY_FILE names no key.")
    return json_response({"public_key": context.webpush_key}, headers=_FRESH)
