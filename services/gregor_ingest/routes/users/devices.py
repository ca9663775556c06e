"""A user's devices: register, patch, show, forget; presence of many; revocation."""

from __future__ import annotations

from typing import Any, Final

import msgspec
from fastapi import APIRouter, Request, Response

from gregor.core.errors import Problem
from gregor.core.times import seconds
from gregor.store.contract.store import Presence, Registration
from gregor.web.request import JSON
from gregor_ingest.context import Parts
from gregor_ingest.guarded_route import GuardedRoute, Working
from gregor_ingest.request import MERGE_PATCH, fit, read_document, read_json
from gregor_ingest.responses import body_of, documented, json_answer
from gregor_ingest.schemas.device import DeviceDocument, as_sent, merged, registration_of, restored, shown
from gregor_ingest.schemas.examples import DEVICE, PRESENCE, REGISTRATION
from gregor_ingest.schemas.requests import PresenceQuestion, Revocation

router: Final = APIRouter(route_class=GuardedRoute, tags=["devices"])

_PATH: Final = "/v1/users/{uid}/devices/{device}"
_BODY: Final = ("malformed_json", "message_too_large", "unsupported_media_type", "missing_field")
_DEVICE: Final = body_of(DeviceDocument.model_json_schema(), REGISTRATION)
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
async def put_device(uid: str, device: str, request: Request, parts: Working) -> Response:
    """Replaces the registration. A push token that another device holds is taken from it."""
    known = await parts.store.devices.device(uid, device, parts.clock.now_us())
    document = restored(await read_json(request, parts), known[0] if known else None)
    return await _register(uid, device, document, parts)


@router.patch(
    _PATH,
    operation_id="patchDevice",
    summary="Change a device",
    responses=_STORED,
    openapi_extra=_DEVICE,
    response_class=Response,
)
async def patch_device(uid: str, device: str, request: Request, parts: Working) -> Response:
    """A merge patch (RFC 7396) on the registration; of a device not known, on an empty one."""
    patch = await read_json(request, parts, JSON, MERGE_PATCH)
    if not isinstance(patch, dict):
        raise Problem("invalid", "A merge patch of a device is an object.")

    def changed(known: Registration | None) -> Registration:
        document = merged({} if known is None else as_sent(known), patch)
        return registration_of(fit(DeviceDocument, restored(document, known)), parts.settings.webpush_hosts)

    await parts.store.devices.change_device(uid, device, changed, parts.clock.now_us())
    return await _show(uid, device, parts)


@router.get(
    _PATH,
    operation_id="getDevice",
    summary="One device",
    responses=documented(200, "The device.", DEVICE, "not_found"),
    response_class=Response,
)
async def get_device(uid: str, device: str, parts: Working) -> Response:
    """The registration and presence of a device."""
    return await _show(uid, device, parts)


@router.delete(
    _PATH,
    operation_id="forgetDevice",
    summary="Forget a device",
    status_code=204,
    responses=documented(204, "It is forgotten, also where it was not known."),
    response_class=Response,
)
async def forget_device(uid: str, device: str, parts: Working) -> Response:
    """Ends the device's own items, voids its cursors, closes its connections. Clients do this on sign-out."""
    await parts.store.devices.forget_device(uid, device, parts.clock.now_us(), parts.epoch_seed())
    return Response(status_code=204)


@router.get(
    "/v1/users/{uid}/devices",
    operation_id="listDevices",
    summary="All devices of a user",
    responses=documented(200, "The devices by name.", {"devices": {"phone": DEVICE}}),
    response_class=Response,
)
async def list_devices(uid: str, parts: Working) -> Response:
    """Every device that is known: registered, or connected at some time."""
    known = await parts.store.devices.devices(uid, parts.clock.now_us())
    return json_answer({"devices": {name: shown(*found) for name, found in sorted(known.items())}})


@router.post(
    "/v1/presence",
    operation_id="readPresence",
    summary="Who is there",
    responses=documented(200, "Presence by uid.", PRESENCE, *_BODY, "too_many"),
    openapi_extra=body_of(PresenceQuestion.model_json_schema(), {"uids": ["alice"]}),
    response_class=Response,
)
async def read_presence(request: Request, parts: Working) -> Response:
    """Online, in the foreground, last seen: of each user over all devices."""
    uids = (await read_document(request, parts, PresenceQuestion)).uids
    found = await parts.store.devices.presence(uids, parts.clock.now_us())
    return json_answer({uid: _presence(each) for uid, each in zip(uids, found, strict=True)})


@router.post(
    "/v1/users/{uid}/revoke",
    operation_id="revokeTokens",
    summary="Void device tokens",
    responses=documented(
        200, "What is void now.", {"device": None, "issued_before": 1457056500}, *_BODY, "time_out_of_range"
    ),
    openapi_extra=body_of(Revocation.model_json_schema(), {"device": "phone"}, is_required=False),
    response_class=Response,
)
async def revoke_tokens(uid: str, request: Request, parts: Working) -> Response:
    """Tokens issued up to a moment are void, and their connections closed, at once."""
    asked = await read_document(request, parts, Revocation, empty={})
    now_us = parts.clock.now_us()
    before_us = now_us if asked.issued_before is None else asked.issued_before
    await parts.store.devices.revoke(uid, asked.device, before_us, now_us)
    return json_answer({"device": asked.device, "issued_before": msgspec.Raw(seconds(before_us))})


async def _register(uid: str, device: str, document: Any, parts: Parts) -> Response:
    registration = registration_of(fit(DeviceDocument, document), parts.settings.webpush_hosts)
    await parts.store.devices.put_device(uid, device, registration, parts.clock.now_us())
    return await _show(uid, device, parts)


async def _show(uid: str, device: str, parts: Parts) -> Response:
    found = await parts.store.devices.device(uid, device, parts.clock.now_us())
    if found is None:
        raise Problem("not_found", "There is no such device.")
    return json_answer(shown(*found))


def _presence(presence: Presence) -> dict[str, Any]:
    seen = None if presence.last_seen_us is None else msgspec.Raw(seconds(presence.last_seen_us))
    return {"online": presence.online, "foreground": presence.foreground, "last_seen": seen}
