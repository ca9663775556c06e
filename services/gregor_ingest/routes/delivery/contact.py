"""How a user may be reached, and what about: contact, quiet hours, preferences."""

from __future__ import annotations

from typing import Any, Final

from fastapi import APIRouter, Request, Response

from gregor.core.errors import Problem
from gregor.core.ids import normalize_prefix
from gregor.core.notify.contact import (
    NO_CONTACT,
    QUIET_HOURS,
    Contact,
    Preferences,
    contact_document,
    parse_contact,
    parse_preferences,
    preferences_document,
    quiet_until,
)
from gregor.web.request import JSON
from gregor_ingest.context import IngestContext
from gregor_ingest.guarded_route import Context, GuardedRoute
from gregor_ingest.request import MERGE_PATCH, read_json
from gregor_ingest.responses import body_of, documented, json_response
from gregor_ingest.schemas.device import merged
from gregor_ingest.schemas.examples import CONTACT, PREFERENCES

router: Final = APIRouter(route_class=GuardedRoute, tags=["contact"])

_CONTACT: Final = "/v1/users/{uid}/contact"
_PREFERENCES: Final = "/v1/users/{uid}/preferences"
_BODY: Final = ("malformed_json", "message_too_large", "unsupported_media_type")
_CONTACT_BODY: Final = body_of({"type": "object"}, CONTACT)
_PREFERENCES_BODY: Final = body_of({"type": "object"}, PREFERENCES)
_CONTACT_KEPT: Final = documented(200, "The contact as it is kept.", CONTACT, *_BODY, "missing_field")
_PREFERENCES_KEPT: Final = documented(
    200, "The preferences as they are kept.", PREFERENCES, *_BODY, "too_many", "contradictory"
)


@router.put(
    _CONTACT,
    operation_id="putContact",
    summary="Say how a user may be reached",
    responses=_CONTACT_KEPT,
    openapi_extra=_CONTACT_BODY,
    response_class=Response,
)
async def put_contact(uid: str, request: Request, context: Context) -> Response:
    """Replaces the contact. In quiet hours what is to be told waits until their end, but for urgent categories."""
    return await _keep_contact(uid, await read_json(request, context), context)


@router.patch(
    _CONTACT,
    operation_id="patchContact",
    summary="Change how a user may be reached",
    responses=_CONTACT_KEPT,
    openapi_extra=_CONTACT_BODY,
    response_class=Response,
)
async def patch_contact(uid: str, request: Request, context: Context) -> Response:
    """A merge patch (RFC 7396) on the contact."""
    patch = await _patch(request, context)
    contact = await context.store.contacts.change_contact(
        uid, lambda kept: parse_contact(merged(contact_document(kept), patch))
    )
    return await _kept(uid, contact, context)


@router.get(
    _CONTACT,
    operation_id="getContact",
    summary="How a user may be reached",
    responses=documented(200, "The contact; empty where none is kept.", CONTACT),
    response_class=Response,
)
async def get_contact(uid: str, context: Context) -> Response:
    """Address, language, zone and quiet hours, as far as they are known."""
    return json_response(contact_document(await context.store.contacts.contact(uid)))


@router.delete(
    _CONTACT,
    operation_id="deleteContact",
    summary="Delete how a user may be reached",
    status_code=204,
    responses=documented(204, "There is none any more."),
    response_class=Response,
)
async def delete_contact(uid: str, context: Context) -> Response:
    """Quiet hours go with it."""
    await context.store.contacts.put_contact(uid, NO_CONTACT)
    await _end_waits(uid, NO_CONTACT, context)
    return Response(status_code=204)


@router.put(
    _PREFERENCES,
    operation_id="putPreferences",
    summary="Say what a user is told of",
    responses=_PREFERENCES_KEPT,
    openapi_extra=_PREFERENCES_BODY,
    response_class=Response,
)
async def put_preferences(uid: str, request: Request, context: Context) -> Response:
    """Replaces the preferences: of each category prefix, or `*`, which channels may be used. The longest wins."""
    return await _keep_preferences(uid, await read_json(request, context), context)


@router.patch(
    _PREFERENCES,
    operation_id="patchPreferences",
    summary="Change what a user is told of",
    responses=_PREFERENCES_KEPT,
    openapi_extra=_PREFERENCES_BODY,
    response_class=Response,
)
async def patch_preferences(uid: str, request: Request, context: Context) -> Response:
    """A merge patch (RFC 7396) on the preferences."""
    patch = await _patch(request, context)
    preferences = await context.store.contacts.change_preferences(
        uid, lambda kept: parse_preferences(merged(_as_named_in(patch, kept), patch))
    )
    return json_response(preferences_document(preferences))


@router.get(
    _PREFERENCES,
    operation_id="getPreferences",
    summary="What a user is told of",
    responses=documented(200, "The preferences; empty where none are kept.", PREFERENCES),
    response_class=Response,
)
async def get_preferences(uid: str, context: Context) -> Response:
    """What is not said here is told."""
    return json_response(preferences_document(await context.store.contacts.preferences(uid)))


def _as_named_in(patch: dict[str, Any], kept: Preferences) -> dict[str, Any]:
    """The preferences, each prefix as a patch names it: `user.` is `user`, and faults are told where they stand."""
    named = {normalize_prefix(name): name for name in patch}
    return {named.get(prefix, prefix): said for prefix, said in preferences_document(kept).items()}


async def _patch(request: Request, context: IngestContext) -> dict[str, Any]:
    patch = await read_json(request, context, JSON, MERGE_PATCH)
    if not isinstance(patch, dict):
        raise Problem("invalid", "A merge patch is an object.")
    return patch


async def _keep_contact(uid: str, document: Any, context: IngestContext) -> Response:
    contact = parse_contact(document)
    await context.store.contacts.put_contact(uid, contact)
    return await _kept(uid, contact, context)


async def _kept(uid: str, contact: Contact, context: IngestContext) -> Response:
    await _end_waits(uid, contact, context)
    return json_response(contact_document(contact))


async def _end_waits(uid: str, contact: Contact, context: IngestContext) -> None:
    """What waits for quiet hours that end sooner now, or are none, is looked at again; also where the call is repeated
    that failed between the two steps."""
    now_us = context.clock.now_us()
    await context.store.ledger.expedite(uid, QUIET_HOURS, quiet_until(contact, now_us), now_us)


async def _keep_preferences(uid: str, document: Any, context: IngestContext) -> Response:
    preferences: Preferences = parse_preferences(document)
    await context.store.contacts.put_preferences(uid, preferences)
    return json_response(preferences_document(preferences))
