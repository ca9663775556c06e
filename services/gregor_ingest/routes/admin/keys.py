"""Service keys: made, listed, rotated, deleted."""

from __future__ import annotations

from typing import Any, Final

import msgspec
from fastapi import APIRouter, Request, Response

from gregor.core.errors import Problem
from gregor.core.times import format_time
from gregor.store.contract.access import ServiceKey
from gregor_ingest.guarded_route import Context, GuardedRoute
from gregor_ingest.request import read_model
from gregor_ingest.responses import body_of, documented, json_response
from gregor_ingest.schemas.examples import KEY, NEW_KEY
from gregor_ingest.schemas.requests import NewKey

router: Final = APIRouter(route_class=GuardedRoute, tags=["keys"])

KEEP_US: Final = 24 * 3_600 * 1_000_000
"""How long the old secret of a rotated key is good (protocol.md, "Who may call")."""
_BODY: Final = ("malformed_json", "message_too_large", "unsupported_media_type", "missing_field")
_SECRET: Final = {"Cache-Control": "no-store"}


@router.post(
    "/v1/keys",
    operation_id="createKey",
    summary="Make a service key",
    status_code=201,
    responses=documented(201, "The key; its text is never shown again.", NEW_KEY, *_BODY),
    openapi_extra=body_of(NewKey.model_json_schema(), {"scopes": ["ingest"], "prefixes": ["user"]}),
    response_class=Response,
)
async def create_key(request: Request, context: Context) -> Response:
    """A key with scopes, and optionally limits to category prefixes and a rate. Only a hash of it is stored."""
    asked = await read_model(request, context, NewKey)
    now_us = context.clock.now_us()
    key, text = await context.store.access.create_key(asked.scopes, asked.prefixes, asked.rate, asked.name, now_us)
    return json_response({**_shown(key), "key": text}, 201, _SECRET)


@router.get(
    "/v1/keys",
    operation_id="listKeys",
    summary="All service keys",
    responses=documented(200, "The keys, without their secrets.", {"keys": [KEY]}),
    response_class=Response,
)
async def list_keys(context: Context) -> Response:
    """Every key, by id."""
    return json_response({"keys": [_shown(key) for key in await context.store.access.keys()]})


@router.get(
    "/v1/keys/{key}",
    operation_id="getKey",
    summary="One service key",
    responses=documented(200, "The key, without its secret.", KEY, "not_found"),
    response_class=Response,
)
async def get_key(key: str, context: Context) -> Response:
    """What is stored of a key."""
    found = await context.store.access.key(key)
    if found is None:
        raise _no_key()
    return json_response(_shown(found))


@router.delete(
    "/v1/keys/{key}",
    operation_id="deleteKey",
    summary="Delete a service key",
    status_code=204,
    responses=documented(204, "It is gone, also where there was none."),
    response_class=Response,
)
async def delete_key(key: str, context: Context) -> Response:
    """The key is refused from now on."""
    await context.store.access.delete_key(key)
    context.authorizer.invalidate_keys()
    return Response(status_code=204)


@router.post(
    "/v1/keys/{key}/rotate",
    operation_id="rotateKey",
    summary="Give a service key a new secret",
    responses=documented(200, "The new text; the old one works for 24 hours more.", NEW_KEY, "not_found"),
    response_class=Response,
)
async def rotate_key(key: str, context: Context) -> Response:
    """Both secrets work for 24 hours, so that no caller is shut out while they are changed."""
    text = await context.store.access.rotate_key(key, context.clock.now_us(), KEEP_US)
    context.authorizer.invalidate_keys()
    found = await context.store.access.key(key)
    if text is None or found is None:
        raise _no_key()
    return json_response({**_shown(found), "key": text}, headers=_SECRET)


def _no_key() -> Problem:
    return Problem("not_found", "There is no such key.")


def _shown(key: ServiceKey) -> dict[str, Any]:
    shown: dict[str, Any] = {
        "id": key.id,
        "scopes": sorted(key.scopes),
        "prefixes": key.prefixes,
        "rate": key.rate,
        "created": msgspec.Raw(format_time(key.created_us)),
    }
    return shown if key.name is None else {**shown, "name": key.name}
