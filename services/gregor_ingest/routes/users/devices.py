"""Devices of a user: register, change, list, forget; presence of users; revocation of device tokens."""

from __future__ import annotations

import random
from functools import partial
from typing import Any, Final

from fastapi import APIRouter, Request, Response

from gregor.core.errors import Problem
from gregor.core.items.read_cost import listing_weight
from gregor.core.limits import CLOCK_LEEWAY_US
from gregor.store.contract.devices import PushRegistrar, Registration
from gregor.web.request import JSON
from gregor_ingest.audit import target_of
from gregor_ingest.auth.actor import Actor
from gregor_ingest.context import IngestContext
from gregor_ingest.guarded_route import Context, CurrentActor, CurrentReadLimiter, GuardedRoute, add_audit_target
from gregor_ingest.request import (
    BODY_ERRORS,
    MERGE_PATCH,
    SMALL_BODY_BYTES,
    apply_merge_patch,
    read_json,
    read_model,
    validate_model,
)
from gregor_ingest.responses import documented, json_response, request_body
from gregor_ingest.routes.messages.delayed import (
    cancel_delayed_messages,
    cancel_revoked_messages,
)
from gregor_ingest.schemas.device import (
    DevicePatch,
    DeviceRegistration,
    device_response,
    presence_response,
    registration_document,
    restore_read_values,
    to_registration,
    with_registrar,
)
from gregor_ingest.schemas.examples import DEVICE, PRESENCE, REGISTRATION
from gregor_ingest.schemas.fields import json_time
from gregor_ingest.schemas.requests import PresenceQuery, RevokeTokens
from gregor_ingest.schemas.responses import DeviceResponse, DevicesResponse, RevokedResponse

router: Final = APIRouter(route_class=GuardedRoute, tags=["devices"])

ALL_DEVICES: Final = "*"
"""The device in the audit event of a revocation of all devices."""
# A registration with a new push token of 4 KB takes Redis as long as two reads, because the owner of the token changes.
_WRITE_WEIGHT: Final = 1
_PATH: Final = "/v1/users/{uid}/devices/{device}"
_REGISTERED: Final = documented(
    200,
    "The registered device.",
    DeviceResponse,
    DEVICE,
    *BODY_ERRORS,
    "missing_field",
    "too_many_devices",
    "push_endpoint_not_allowed",
)


@router.put(
    _PATH,
    operation_id="putDevice",
    summary="Register a device",
    responses=_REGISTERED,
    openapi_extra=request_body(DeviceRegistration, REGISTRATION),
    response_class=Response,
)
async def put_device(
    uid: str, device: str, request: Request, actor: CurrentActor, context: Context, limiter: CurrentReadLimiter
) -> Response:
    """Replace the registration. If another device has the same push token, that device loses it."""
    await limiter.charge(_WRITE_WEIGHT)
    # Reads only the registration: the sessions of a device can take 200 KB.
    stored = await context.store.devices.registration(uid, device)
    document = await read_json(request, context, max_bytes=SMALL_BODY_BYTES)
    # A client may write back what it read, where the push token is masked.
    registration = _validate(restore_read_values(document, stored), stored, context)
    registration = with_registrar(registration, stored, document, _registrar(actor))
    charge = partial(limiter.charge_displacement, uid)
    await context.store.devices.put_device(uid, device, registration, context.clock.now_us(), charge)
    return await _respond(uid, device, context)


@router.patch(
    _PATH,
    operation_id="patchDevice",
    summary="Change a device",
    responses=_REGISTERED,
    openapi_extra=request_body(DevicePatch, {"locale": "it-IT"}, media_types=(JSON, MERGE_PATCH)),
    response_class=Response,
)
async def patch_device(
    uid: str, device: str, request: Request, actor: CurrentActor, context: Context, limiter: CurrentReadLimiter
) -> Response:
    """Apply a merge patch (RFC 7396) to the registration. An unknown device starts with an empty one."""
    await limiter.charge(_WRITE_WEIGHT)
    patch = await read_json(request, context, JSON, MERGE_PATCH, max_bytes=SMALL_BODY_BYTES)
    if not isinstance(patch, dict):
        raise Problem("invalid", "A merge patch must be an object.")

    # The store may call this again, if another request changes the device at the same time.
    def change(stored: Registration | None) -> Registration:
        document = apply_merge_patch({} if stored is None else registration_document(stored), patch)
        registration = _validate(restore_read_values(document, stored), stored, context)
        return with_registrar(registration, stored, patch, _registrar(actor))

    charge = partial(limiter.charge_displacement, uid)
    await context.store.devices.change_device(uid, device, change, context.clock.now_us(), charge)
    return await _respond(uid, device, context)


@router.get(
    _PATH,
    operation_id="getDevice",
    summary="Get a device",
    responses=documented(200, "The device.", DeviceResponse, DEVICE, "not_found"),
    response_class=Response,
)
async def get_device(uid: str, device: str, context: Context) -> Response:
    """Return the registration and the presence of a device."""
    return await _respond(uid, device, context)


@router.delete(
    _PATH,
    operation_id="forgetDevice",
    summary="Forget a device",
    status_code=204,
    responses=documented(204, "The device is forgotten, or never existed."),
    response_class=Response,
)
async def forget_device(
    uid: str, device: str, actor: CurrentActor, context: Context, limiter: CurrentReadLimiter
) -> Response:
    """Delete the items and delayed messages of the device, invalidate its cursors, close its connections.

    Clients do this on sign-out. With a limited token, items and messages outside of its limits stay.
    """
    # Before anything is changed: a device can repeat this, although it is forgotten already.
    await limiter.charge_forgetting(uid)
    await limiter.charge_delayed(uid)
    now_us, category_filter = context.clock.now_us(), actor.category_filter
    weight = await context.store.devices.forget_device(uid, device, now_us, random.randbytes(3), category_filter)
    await limiter.charge_forgotten_device(weight)
    is_limited = category_filter is not None or actor.systems is not None
    await cancel_delayed_messages(context, uid, device, actor if is_limited else None)
    return Response(status_code=204)


@router.get(
    "/v1/users/{uid}/devices",
    operation_id="listDevices",
    summary="List the devices of a user",
    responses=documented(200, "The devices, by name.", DevicesResponse, {"devices": {"phone": DEVICE}}),
    response_class=Response,
)
async def list_devices(uid: str, context: Context) -> Response:
    """Return every device that is registered, or was connected once."""
    devices = await context.store.devices.list_devices(uid, context.clock.now_us())
    return json_response(DevicesResponse({name: device_response(*each) for name, each in sorted(devices.items())}))


@router.post(
    "/v1/presence",
    operation_id="readPresence",
    summary="Read the presence of users",
    responses=documented(
        200, "The presence, by uid.", "Presences", PRESENCE, *BODY_ERRORS, "missing_field", "too_many"
    ),
    openapi_extra=request_body(PresenceQuery, {"uids": ["alice"]}),
    response_class=Response,
)
async def read_presence(request: Request, context: Context, limiter: CurrentReadLimiter) -> Response:
    """Return whether any device of each user is online or in the foreground, and when one was last seen.

    The presence of users whose Redis server is unreachable has `"unknown":true`.
    """
    uids = (await read_model(request, context, PresenceQuery)).uids
    await limiter.charge(listing_weight(len(uids)))
    presences = await context.store.devices.reachable_presence(uids, context.clock.now_us())
    return json_response({uid: presence_response(presences.get(uid)) for uid in uids})


@router.post(
    "/v1/users/{uid}/revoke",
    operation_id="revokeTokens",
    summary="Revoke device tokens",
    responses=documented(
        200,
        "The tokens that are revoked now.",
        RevokedResponse,
        {"device": None, "issued_before": 1457056500},
        *BODY_ERRORS,
        "missing_field",
        "time_out_of_range",
    ),
    openapi_extra=request_body(RevokeTokens, {"device": "phone"}, is_required=False),
    response_class=Response,
)
async def revoke_tokens(uid: str, request: Request, context: Context) -> Response:
    """Revoke tokens issued up to a time, and close their connections at once.

    Their devices are no longer present, and the push tokens that they registered are removed. A push token that a
    service key registered stays. Delayed messages that only these tokens sent are dropped at their time; with `delayed`
    they are cancelled at once. Tokens that an earlier call revoked stay revoked.
    """
    body = await read_model(request, context, RevokeTokens, empty={})
    now_us = context.clock.now_us()
    # A login service whose clock is ahead issues tokens with a later iat, which are accepted up to the leeway.
    target = {"device": ALL_DEVICES} if body.device is None else target_of({"device": body.device})
    add_audit_target(request, **target)
    before_us = now_us + CLOCK_LEEWAY_US if body.issued_before is None else body.issued_before
    await context.store.devices.revoke(uid, body.device, before_us, now_us)
    if body.delayed:
        await cancel_revoked_messages(context, uid, body.device, before_us)
    return json_response(RevokedResponse(device=body.device, issued_before=json_time(before_us)))


def _validate(document: Any, stored: Registration | None, context: IngestContext) -> Registration:
    return to_registration(validate_model(DeviceRegistration, document), context.settings.webpush_hosts, stored)


def _registrar(actor: Actor) -> PushRegistrar:
    return PushRegistrar(actor.category_filter, None if actor.caller is None else actor.issued_us)


async def _respond(uid: str, device: str, context: IngestContext) -> Response:
    found = await context.store.devices.device(uid, device, context.clock.now_us())
    if found is None:
        raise Problem("not_found", "The user has no device with this name.")
    return json_response(device_response(*found))
