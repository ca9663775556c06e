"""Service keys: create, list, rotate, delete."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Annotated, Any, Final

from fastapi import APIRouter, Depends, Request, Response
from msgspec import UNSET

from gregor.core.errors import Problem, field_problem
from gregor.core.ids import normalize_prefixes
from gregor.core.times import date_text
from gregor.store import service_keys
from gregor.store.contract.access import ServiceKey
from gregor_ingest.auth.actor import Actor
from gregor_ingest.guarded_route import Context, CurrentActor, GuardedRoute, add_audit_target
from gregor_ingest.request import BODY_ERRORS, read_model
from gregor_ingest.responses import documented, json_response, request_body
from gregor_ingest.schemas.examples import KEY, NEW_KEY
from gregor_ingest.schemas.fields import json_time, json_time_or_null
from gregor_ingest.schemas.requests import CreateKey
from gregor_ingest.schemas.responses import KeyResponse, KeysResponse, NewKeyResponse

router: Final = APIRouter(route_class=GuardedRoute, tags=["keys"])

ROTATION_OVERLAP_US: Final = 24 * 3_600 * 1_000_000
"""How long the old secret of a rotated key stays valid."""
_PATH: Final = "/v1/keys/{key}"


async def _key_id(key: str) -> str:
    """Return the id of a key in a path. Raises ``invalid_id`` for any other text, such as a key with its secret."""
    if not service_keys.is_id(key):
        # It may contain a secret, so the detail does not repeat it.
        raise Problem(
            "invalid_id",
            "This is not a key id, which is 12 lower-case letters or digits. In a key gk_<id>_<secret>, "
            "it is between the two underscores. GET /v1/keys lists the ids.",
        )
    return key


KeyId = Annotated[str, Depends(_key_id)]


@router.post(
    "/v1/keys",
    operation_id="createKey",
    summary="Create a service key",
    status_code=201,
    responses=documented(
        201,
        "The key. Its secret is never shown again.",
        NewKeyResponse,
        NEW_KEY,
        *BODY_ERRORS,
        "missing_field",
        "contradictory",
        "time_out_of_range",
        location="The address of the new key.",
    ),
    openapi_extra=request_body(CreateKey, {"scopes": ["ingest"], "prefixes": ["user"]}),
    response_class=Response,
)
async def create_key(request: Request, context: Context, actor: CurrentActor) -> Response:
    """Create a key with scopes, and optionally with limits. Only a hash is stored."""
    body = await read_model(request, context, CreateKey)
    now_us = context.clock.now_us()
    _check_limits(body, actor, now_us)
    key, text = await context.store.access.create_key(
        body.scopes,
        body.prefixes,
        body.rate,
        body.name,
        now_us,
        systems=body.systems,
        expires_us=body.expires,
        addresses=body.addresses,
    )
    add_audit_target(request, **service_keys.audit_target(key))
    headers = {"Location": _PATH.format(key=key.id)}
    return json_response(NewKeyResponse(**_members(key), key=text), 201, headers)


@router.get(
    "/v1/keys",
    operation_id="listKeys",
    summary="List the service keys",
    responses=documented(200, "The keys, without their secrets.", KeysResponse, {"keys": [KEY]}),
    response_class=Response,
)
async def list_keys(context: Context) -> Response:
    """Return every key, by id."""
    access = context.store.access
    keys, uses = await asyncio.gather(access.keys(), access.key_uses())
    return json_response(KeysResponse([KeyResponse(**_members(key, uses.get(key.id))) for key in keys]))


@router.get(
    _PATH,
    operation_id="getKey",
    summary="Get a service key",
    responses=documented(200, "The key, without its secret.", KeyResponse, KEY, "not_found"),
    response_class=Response,
)
async def get_key(key: KeyId, context: Context) -> Response:
    """Return the scopes and limits of a key."""
    access = context.store.access
    found, uses = await asyncio.gather(access.key(key), access.key_uses())
    if found is None:
        raise _unknown_key()
    return json_response(KeyResponse(**_members(found, uses.get(key))))


@router.delete(
    _PATH,
    operation_id="deleteKey",
    summary="Delete a service key",
    status_code=204,
    responses=documented(204, "The key is deleted, or never existed."),
    response_class=Response,
)
async def delete_key(key: KeyId, context: Context) -> Response:
    """Delete a key. Requests with it fail from now on."""
    await context.store.access.delete_key(key)
    # Other processes notice within KEY_CACHE_TTL_S.
    context.authorizer.invalidate_keys()
    return Response(status_code=204)


@router.post(
    f"{_PATH}/rotate",
    operation_id="rotateKey",
    summary="Rotate the secret of a service key",
    responses=documented(
        200, "The new secret; the old one works for 24 more hours.", NewKeyResponse, NEW_KEY, "not_found", "invalid"
    ),
    response_class=Response,
)
async def rotate_key(key: KeyId, context: Context, actor: CurrentActor) -> Response:
    """Create a new secret. Both secrets work for 24 hours, so clients can switch one after the other."""
    before = await context.store.access.key(key)
    if before is None:
        raise _unknown_key()
    # The caller gets the secret, so it must not be that of a key that may do more.
    excess = _excess(before.rate, before.expires_us, before.addresses, actor)
    if excess is not None:
        raise Problem("forbidden", f"This key may do more than the key of this request. {excess[1]}")
    fault = service_keys.rotation_fault(before, context.clock.now_us())
    if fault is not None:
        raise Problem("invalid", fault)
    text = await context.store.access.rotate_key(key, context.clock.now_us(), ROTATION_OVERLAP_US)
    context.authorizer.invalidate_keys()
    found = await context.store.access.key(key)
    if text is None or found is None:
        raise _unknown_key()
    return json_response(NewKeyResponse(**_members(found), key=text))


def _check_limits(body: CreateKey, actor: Actor, now_us: int) -> None:
    """Raise ``Problem`` if the limits contradict the scopes, or if the new key could do more than its creator."""
    prefixes = None if body.prefixes is None else normalize_prefixes(body.prefixes)
    conflict = service_keys.limits_conflict(body.scopes, prefixes, body.systems)
    if conflict is not None:
        raise field_problem("contradictory", f"/{conflict[0]}", conflict[1])
    if body.expires is not None and body.expires <= now_us:
        raise field_problem("invalid", "/expires", "expires must be a time in the future.")
    excess = _excess(body.rate, body.expires, body.addresses, actor)
    if excess is not None:
        raise field_problem("forbidden", *excess)


def _excess(
    rate: float | None, expires_us: int | None, addresses: Sequence[str] | None, actor: Actor
) -> tuple[str, str] | None:
    """Return the field and the reason if a key with these limits may do more than the key of the request."""
    own = actor.key
    if own is None:
        return None
    if own.rate is not None and (rate is None or rate > own.rate):
        return "/rate", f"The key of this request has a rate of {own.rate:g}. Its field rate must be no greater."
    if own.expires_us is not None and (expires_us is None or expires_us > own.expires_us):
        at = date_text(own.expires_us)
        return "/expires", f"The key of this request expires at {at}. Its field expires must be no later."
    if not service_keys.is_within_addresses(addresses, own.addresses):
        allowed = ", ".join(own.addresses or ())
        return "/addresses", f"The key of this request may be used from {allowed}. Allow no other addresses."
    return None


def _unknown_key() -> Problem:
    return Problem("not_found", "No service key has this id.")


def _members(key: ServiceKey, used_us: int | None = None) -> dict[str, Any]:
    return {
        "id": key.id,
        "scopes": sorted(key.scopes),
        "prefixes": key.prefixes,
        "rate": key.rate,
        "created": json_time(key.created_us),
        "name": UNSET if key.name is None else key.name,
        "systems": key.systems,
        "expires": json_time_or_null(key.expires_us),
        "addresses": key.addresses,
        "last_used": json_time_or_null(used_us),
    }
