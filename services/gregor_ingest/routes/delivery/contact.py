"""Contact and preferences of users: addresses, quiet hours, and which channels may be used for which category."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any, Final

from fastapi import APIRouter, Request, Response

from gregor.core.errors import Problem, field_problem
from gregor.core.ids import Prefixes, is_allowed, normalize_prefix
from gregor.core.json_text import escape_pointer
from gregor.core.notify.contact import (
    ALL_CATEGORIES,
    NO_CONTACT,
    QUIET_FIELDS,
    QUIET_HOURS,
    Contact,
    Preferences,
    check_preference_count,
    contact_document,
    parse_contact,
    parse_preferences,
    preferences_document,
    quiet_until,
)
from gregor.web.request import JSON
from gregor_ingest.context import IngestContext
from gregor_ingest.guarded_route import Context, CurrentActor, CurrentReadLimiter, GuardedRoute
from gregor_ingest.request import BODY_ERRORS, MERGE_PATCH, SMALL_BODY_BYTES, apply_merge_patch, read_json
from gregor_ingest.responses import documented, json_response, request_body
from gregor_ingest.schemas.documents import ContactDocumentSchema, ContactPatchSchema, QuietHoursDocumentSchema
from gregor_ingest.schemas.examples import CONTACT, PREFERENCES, QUIET
from gregor_ingest.schemas.responses import ContactResponse, UserQuietHoursResponse

router: Final = APIRouter(route_class=GuardedRoute, tags=["contact"])

_CONTACT: Final = "/v1/users/{uid}/contact"
_PREFERENCES: Final = "/v1/users/{uid}/preferences"
_QUIET_HOURS: Final = "/v1/users/{uid}/quiet-hours"
_PATCH_TYPES: Final = (JSON, MERGE_PATCH)
_CONTACT_STORED: Final = documented(200, "The stored contact.", ContactResponse, CONTACT, *BODY_ERRORS, "missing_field")
_PREFERENCES_STORED: Final = documented(
    200, "The stored preferences.", "Preferences", PREFERENCES, *BODY_ERRORS, "too_many", "contradictory"
)


@router.put(
    _CONTACT,
    operation_id="putContact",
    summary="Set the contact of a user",
    responses=_CONTACT_STORED,
    openapi_extra=request_body(ContactDocumentSchema, CONTACT),
    response_class=Response,
)
async def put_contact(uid: str, request: Request, context: Context, limiter: CurrentReadLimiter) -> Response:
    """Replace the contact. During quiet hours, notifications wait until the end, except for urgent categories."""
    contact = parse_contact(await read_json(request, context))
    await limiter.charge_quiet_hours(uid)
    await context.store.contacts.put_contact(uid, contact)
    return await _respond_contact(uid, contact, context)


@router.patch(
    _CONTACT,
    operation_id="patchContact",
    summary="Change the contact of a user",
    responses=_CONTACT_STORED,
    openapi_extra=request_body(ContactPatchSchema, {"locale": "it-IT"}, media_types=_PATCH_TYPES),
    response_class=Response,
)
async def patch_contact(uid: str, request: Request, context: Context, limiter: CurrentReadLimiter) -> Response:
    """Apply a merge patch (RFC 7396) to the contact."""
    patch = await _read_patch(request, context)
    await limiter.charge_quiet_hours(uid)
    contact = await context.store.contacts.change_contact(
        uid, lambda stored: parse_contact(apply_merge_patch(contact_document(stored), patch))
    )
    return await _respond_contact(uid, contact, context)


@router.get(
    _CONTACT,
    operation_id="getContact",
    summary="Get the contact of a user",
    responses=documented(200, "The contact; empty if none is stored.", ContactResponse, CONTACT),
    response_class=Response,
)
async def get_contact(uid: str, context: Context) -> Response:
    """Return e-mail address, language, time zone and quiet hours, as far as they are known."""
    return json_response(contact_document(await context.store.contacts.contact(uid)))


@router.delete(
    _CONTACT,
    operation_id="deleteContact",
    summary="Delete the contact of a user",
    status_code=204,
    responses=documented(204, "The contact is deleted, or never existed."),
    response_class=Response,
)
async def delete_contact(uid: str, context: Context, limiter: CurrentReadLimiter) -> Response:
    """Delete the contact, including the quiet hours."""
    await limiter.charge_quiet_hours(uid)
    await context.store.contacts.put_contact(uid, NO_CONTACT)
    await _expedite_waiting_deliveries(uid, NO_CONTACT, context)
    return Response(status_code=204)


@router.put(
    _QUIET_HOURS,
    operation_id="putQuietHours",
    summary="Set the quiet hours of a user",
    responses=documented(
        200,
        "The stored quiet hours.",
        UserQuietHoursResponse,
        QUIET,
        *BODY_ERRORS,
        "missing_field",
        "category_not_allowed",
    ),
    openapi_extra=request_body(QuietHoursDocumentSchema, QUIET),
    response_class=Response,
)
async def put_quiet_hours(
    uid: str, request: Request, context: Context, actor: CurrentActor, limiter: CurrentReadLimiter
) -> Response:
    """Replace time zone and quiet hours in the contact; an absent member is removed. Devices may call it."""
    wanted = parse_contact(await read_json(request, context, max_bytes=SMALL_BODY_BYTES), QUIET_FIELDS)
    if actor.category_filter is not None:
        detail = "Quiet hours concern all categories; the device token is limited to some of them (claim cats)."
        raise field_problem("category_not_allowed", "/quiet_hours", detail)
    await limiter.charge_quiet_hours(uid)
    contact = await context.store.contacts.change_contact(
        uid, lambda stored: replace(stored, timezone=wanted.timezone, quiet_hours=wanted.quiet_hours)
    )
    await _expedite_waiting_deliveries(uid, contact, context)
    return json_response(_quiet_document(contact))


@router.get(
    _QUIET_HOURS,
    operation_id="getQuietHours",
    summary="Get the quiet hours of a user",
    responses=documented(200, "Time zone and quiet hours, if they are stored.", UserQuietHoursResponse, QUIET),
    response_class=Response,
)
async def get_quiet_hours(uid: str, context: Context) -> Response:
    """Return time zone and quiet hours of the contact, without the address."""
    return json_response(_quiet_document(await context.store.contacts.contact(uid)))


@router.put(
    _PREFERENCES,
    operation_id="putPreferences",
    summary="Set the preferences of a user",
    responses=_PREFERENCES_STORED,
    openapi_extra=request_body("PreferencesDocument", PREFERENCES),
    response_class=Response,
)
async def put_preferences(
    uid: str, request: Request, context: Context, actor: CurrentActor, limiter: CurrentReadLimiter
) -> Response:
    """Replace the preferences: which channels may be used for a category prefix, or `*`. The longest prefix wins.

    A device token with `cats` replaces those below its prefixes.
    """
    asked, allowed = parse_preferences(await read_json(request, context)), actor.category_filter
    if allowed is None:
        await context.store.contacts.put_preferences(uid, asked)
        return json_response(preferences_document(asked))
    _check_names(asked.by_prefix, allowed)
    await limiter.charge_preferences(uid)
    preferences = await context.store.contacts.change_preferences(
        uid, lambda stored: _joined(_outside(stored, allowed), asked)
    )
    return json_response(preferences_document(_within(preferences, allowed)))


@router.patch(
    _PREFERENCES,
    operation_id="patchPreferences",
    summary="Change the preferences of a user",
    responses=_PREFERENCES_STORED,
    openapi_extra=request_body("PreferencesPatch", PREFERENCES, media_types=_PATCH_TYPES),
    response_class=Response,
)
async def patch_preferences(
    uid: str, request: Request, context: Context, actor: CurrentActor, limiter: CurrentReadLimiter
) -> Response:
    """Apply a merge patch (RFC 7396) to the preferences; with `cats`, only to those below its prefixes."""
    patch = await _read_patch(request, context)
    _check_names(patch, actor.category_filter)
    await limiter.charge_preferences(uid)
    preferences = await context.store.contacts.change_preferences(uid, lambda stored: _patched(stored, patch))
    return json_response(preferences_document(_within(preferences, actor.category_filter)))


@router.get(
    _PREFERENCES,
    operation_id="getPreferences",
    summary="Get the preferences of a user",
    responses=documented(200, "The preferences; empty if none are stored.", "Preferences", PREFERENCES),
    response_class=Response,
)
async def get_preferences(uid: str, context: Context, actor: CurrentActor) -> Response:
    """Return the preferences. A channel without a preference may be used."""
    preferences = await context.store.contacts.preferences(uid)
    return json_response(preferences_document(_within(preferences, actor.category_filter)))


def _joined(some: Preferences, others: Preferences) -> Preferences:
    """Return both; the others win. Raises ``too_many`` if a user may not have so many."""
    joined = {**some.by_prefix, **others.by_prefix}
    check_preference_count(joined)
    return Preferences(joined)


# --- Limits of device tokens with category prefixes


def _within(preferences: Preferences, allowed: Prefixes) -> Preferences:
    if allowed is None:
        return preferences
    return Preferences({name: each for name, each in preferences.by_prefix.items() if _may_set(name, allowed)})


def _outside(preferences: Preferences, allowed: Prefixes) -> Preferences:
    return Preferences({name: each for name, each in preferences.by_prefix.items() if not _may_set(name, allowed)})


def _check_names(names: Iterable[str], allowed: Prefixes) -> None:
    """Raise ``category_not_allowed`` unless the caller may set the preference of each prefix."""
    for name in names:
        if not _may_set(name, allowed):
            detail = "The device token may not change the preferences of this prefix: see its claim cats."
            raise field_problem("category_not_allowed", f"/{escape_pointer(name)}", detail)


def _may_set(name: str, allowed: Prefixes) -> bool:
    # `*` covers every category: a limited token may not set it.
    return allowed is None or (name != ALL_CATEGORIES and is_allowed(allowed, normalize_prefix(name) or ""))


# --- Merge patches


def _patched(stored: Preferences, patch: dict[str, Any]) -> Preferences:
    """Return the preferences after a merge patch. Raises ``Problem`` with all errors of the patched ones."""
    check_preference_count(patch)
    names = {ALL_CATEGORIES if name == ALL_CATEGORIES else normalize_prefix(name) for name in patch}
    # Only those that the patch names: to parse all 1,000 would take 20 ms.
    named = Preferences({prefix: each for prefix, each in stored.by_prefix.items() if prefix in names})
    changed = parse_preferences(apply_merge_patch(_named_as_in(patch, named), patch))
    kept = {
        prefix: each for prefix, each in stored.by_prefix.items() if prefix not in names or prefix in changed.by_prefix
    }
    return _joined(Preferences(kept), changed)


def _named_as_in(patch: dict[str, Any], preferences: Preferences) -> dict[str, Any]:
    """Return the preferences with prefixes spelled as in the patch: `user.` equals `user`, and errors point to it."""
    spelling = {normalize_prefix(name): name for name in patch}
    return {spelling.get(prefix, prefix): channels for prefix, channels in preferences_document(preferences).items()}


async def _read_patch(request: Request, context: IngestContext) -> dict[str, Any]:
    patch = await read_json(request, context, JSON, MERGE_PATCH)
    if not isinstance(patch, dict):
        raise Problem("invalid", "A merge patch must be an object.")
    return patch


async def _respond_contact(uid: str, contact: Contact, context: IngestContext) -> Response:
    await _expedite_waiting_deliveries(uid, contact, context)
    return json_response(contact_document(contact))


def _quiet_document(contact: Contact) -> dict[str, Any]:
    """Return the members of the contact that a device may read."""
    return {name: value for name, value in contact_document(contact).items() if name in QUIET_FIELDS}


async def _expedite_waiting_deliveries(uid: str, contact: Contact, context: IngestContext) -> None:
    """Reschedule deliveries that wait for quiet hours, in case these end sooner now. Safe to repeat."""
    now_us = context.clock.now_us()
    await context.store.ledger.expedite(uid, QUIET_HOURS, quiet_until(contact, now_us), now_us)
