"""A user's devices: register, patch, show, forget; presence of many; revocation."""

from __future__ import annotations

import random
from typing import Any, Final

import msgspec
from fastapi import APIRouter, Request, Response

from gregor.core.errors import Problem
from gregor.core.times import format_time
from gregor.store.contract.devices import Presence, Registration
from gregor.web.request import JSON
from gregor_ingest.context import IngestContext
from gregor_ingest.guarded_route import Context, GuardedRoute
from gregor_ingest.request import MERGE_PATCH, read_json, read_model, validate_model
from gregor_ingest.responses import body_of, documented, json_response
from gregor_ingest.schemas.device import DeviceRegistration, as_sent, merged, restored, shown, to_registration
from gregor_ingest.schemas.examples import DEVICE, PRESENCE, REGISTRATION
from gregor_ingest.schemas.requests import PresenceQuery, RevokeTokens

router: Final = APIRouter(route_class=GuardedRoute, tags=["devices"])

_PATH: Final = "/v1/users/{uid}/devices/{device}"
_BODY: Final = ("malformed_json", "message_too_large", "unsupported_media_type", "missing_field")
_DEVICE: Final = body_of(DeviceRegistration.model_json_schema(), REGISTRATION)
_STORED: Final = documented(
    200, "The device as it is stored.", DEVICE, *_BODY, "too_many_devices", "push_endpoint_not_allowed"
)


@router.put(
    _PATH,
    operation_id="putDevice",
    summary="Register a device",
    responses=_STORED,
    openapi_extra=_DEVICE,
    response_class=Response,
)
async def put_device(uid: str, device: str, request: Request, context: Context) -> Response:
    """Replaces the registration. A push token that another device holds is taken from it."""
    known = await context.store.devices.device(uid, device, context.clock.now_us())
    document = restored(await read_json(request, context), known[0] if known else None)
    return await _register(uid, device, document, context)


@router.patch(
    _PATH,
    operation_id="patchDevice",
    summary="Change a device",
    responses=_STORED,
    openapi_extra=_DEVICE,
    response_class=Response,
)
async def patch_device(uid: str, device: str, request: Request, context: Context) -> Response:
    """A merge patch (RFC 7396) on the registration; of a device not known, on an empty one."""
    patch = await read_json(request, context, JSON, MERGE_PATCH)
    if not isinstance(patch, dict):
        raise Problem("invalid", "A merge patch of a device is an object.")

    def changed(known: Registration | None) -> Registration:
        document = merged({} if known is None else as_sent(known), patch)
        return to_registration(
            validate_model(DeviceRegistration, restored(document, known)), context.settings.webpush_hosts
        )

    await context.store.devices.change_device(uid, device, changed, context.clock.now_us())
    return await _show(uid, device, context)


@router.get(
    _PATH,
    operation_id="getDevice",
    summary="One device",
    responses=documented(200, "The device.", DEVICE, "not_found"),
    response_class=Response,
)
async def get_device(uid: str, device: str, context: Context) -> Response:
    """The registration and presence of a device."""
    return await _show(uid, device, context)


@router.delete(
    _PATH,
    operation_id="forgetDevice",
    summary="Forget a device",
    status_code=204,
    responses=documented(204, "It is forgotten, also where it was not known."),
    response_class=Response,
)
async def forget_device(uid: str, device: str, context: Context) -> Response:
    """Ends the device's own items, voids its cursors, closes its connections. Clients do this on sign-out."""
    await context.store.devices.forget_device(uid, device, context.clock.now_us(), random.randbytes(3))
    return Response(status_code=204)


@router.get(
    "/v1/users/{uid}/devices",
    operation_id="listDevices",
    summary="All devices of a user",
    responses=documented(200, "The devices by name.", {"devices": {"phone": DEVICE}}),
    response_class=Response,
)
async def list_devices(uid: str, context: Context) -> Response:
    """Every device that is known: registered, or connected at some time."""
    known = await context.store.devices.devices(uid, context.clock.now_us())
    return json_response({"devices": {name: shown(*found) for name, found in sorted(known.items())}})


@router.post(
    "/v1/presence",
    operation_id="readPresence",
    summary="Who is there",
    responses=documented(200, "Presence by uid.", PRESENCE, *_BODY, "too_many"),
    openapi_extra=body_of(PresenceQuery.model_json_schema(), {"uids": ["alice"]}),
    response_class=Response,
)
async def read_presence(request: Request, context: Context) -> Response:
    """Online, in the foreground, last seen: of each user over all devices."""
    uids = (await read_model(request, context, PresenceQuery)).uids
    found = await context.store.devices.presence(uids, context.clock.now_us())
    return json_response({uid: _presence(each) for uid, each in zip(uids, found, strict=True)})


@router.post(
    "/v1/users/{uid}/revoke",
    operation_id="revokeTokens",
    summary="Void device tokens",
    responses=documented(
        200, "What is void now.", {"device": None, "issued_before": 1457056500}, *_BODY, "time_out_of_range"
    ),
    openapi_extra=body_of(RevokeTokens.model_json_schema(), {"device": "phone"}, is_required=False),
    response_class=Response,
)
async def revoke_tokens(uid: str, request: Request, context: Context) -> Response:
    """Tokens issued up to a moment are void, and their connections closed, at once."""
    asked = await read_model(request, context, RevokeTokens, empty={})
    now_us = context.clock.now_us()
    before_us = now_us if asked.issued_before is None else asked.issued_before
    await context.store.devices.revoke(uid, asked.device, before_us, now_us)
    return json_response({"device": asked.device, "issued_before": msgspec.Raw(format_time(before_us))})


async def _register(uid: str, device: str, document: Any, context: IngestContext) -> Response:
    registration = to_registration(validate_model(DeviceRegistration, document), context.settings.webpush_hosts)
    await context.store.devices.put_device(uid, device, registration, context.clock.now_us())
    return await _show(uid, device, context)


async def _show(uid: str, device: str, context: IngestContext) -> Response:
    found = await context.store.devices.device(uid, device, context.clock.now_us())
    if found is None:
        raise Problem("not_found", "There is no such device.")
    return json_response(shown(*found))


def _presence(presence: Presence) -> dict[str, Any]:
    seen = None if presence.last_seen_us is None else msgspec.Raw(format_time(presence.last_seen_us))
    return {"online": presence.online, "foreground": presence.foreground, "last_seen": seen}
