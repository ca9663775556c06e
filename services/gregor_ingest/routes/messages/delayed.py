"""Delayed messages: list those of a user, cancel one, cancel those of a device."""

from __future__ import annotations

from typing import Annotated, Final

from fastapi import APIRouter, Path, Response

from gregor.cooperative import for_each
from gregor.core.errors import Problem
from gregor.core.ids import BACKEND
from gregor.core.messages.delayed import DelayedMessage, decode_delayed_header
from gregor.store.contract.agenda import CLAIMED
from gregor_ingest.auth.actor import Actor
from gregor_ingest.context import IngestContext
from gregor_ingest.guarded_route import Context, CurrentActor, CurrentReadLimiter, GuardedRoute
from gregor_ingest.responses import documented, json_response
from gregor_ingest.schemas.examples import DELAYED_MESSAGES
from gregor_ingest.schemas.fields import json_time
from gregor_ingest.schemas.responses import DelayedMessageResponse, DelayedMessagesResponse

router: Final = APIRouter(route_class=GuardedRoute, tags=["messages"])


@router.get(
    "/v1/users/{uid}/messages",
    operation_id="listMessages",
    summary="List delayed messages",
    responses=documented(200, "The delayed messages, by time.", DelayedMessagesResponse, DELAYED_MESSAGES),
    response_class=Response,
)
async def list_messages(uid: str, actor: CurrentActor, context: Context, limiter: CurrentReadLimiter) -> Response:
    """Return the messages that wait for their `not_before`: those that the caller may cancel."""
    await limiter.charge_delayed(uid)
    documents = await context.store.agenda.list_delayed(uid)
    shown: list[DelayedMessageResponse] = []

    def show(raw: bytes) -> None:
        delayed = decode_delayed_header(raw)
        if _may_cancel(delayed, actor, context):
            shown.append(_response(delayed))

    # A user may have 1,000 messages: other requests run between them.
    await for_each((raw for raw in documents if not raw.startswith(CLAIMED)), show)
    return json_response(DelayedMessagesResponse(sorted(shown, key=lambda each: (each.not_before, each.id))))


async def cancel_delayed_messages(context: IngestContext, uid: str, device: str, limited: Actor | None = None) -> None:
    """Cancel the delayed messages of a device.

    ``limited``: a caller with limits; those that it could not send itself stay.
    """
    agenda = context.store.agenda
    for raw in await agenda.list_delayed(uid):
        delayed = decode_delayed_header(raw)
        if delayed.sender.device == device and (limited is None or _may_cancel(delayed, limited, context)):
            await agenda.cancel_delayed(uid, delayed.id)


async def cancel_revoked_messages(context: IngestContext, uid: str, device: str | None, before_us: int) -> None:
    """Cancel the delayed messages of a device that only revoked tokens sent; of all devices if it is ``None``."""
    agenda = context.store.agenda
    for raw in await agenda.list_delayed(uid):
        delayed = decode_delayed_header(raw)
        is_meant = delayed.sender.device == device if device is not None else delayed.sender.device != BACKEND
        if is_meant and not delayed.key_ids and delayed.is_revoked(before_us) and not raw.startswith(CLAIMED):
            # Not if it changed since it was read: a newer token or a key may have repeated it.
            await agenda.cancel_delayed(uid, delayed.id, raw)


def _response(delayed: DelayedMessage) -> DelayedMessageResponse:
    document = delayed.document
    return DelayedMessageResponse(
        id=delayed.id,
        not_before=document["not_before"],
        system=document["system"],
        device=delayed.sender.device or None,
        accepted=json_time(delayed.accepted_us) if delayed.accepted_us else None,
    )


@router.delete(
    "/v1/users/{uid}/messages/{id}",
    operation_id="cancelMessage",
    summary="Cancel a delayed message",
    status_code=204,
    responses=documented(204, "The message is cancelled.", None, None, "not_found"),
    response_class=Response,
)
async def cancel_message(
    uid: str,
    message_id: Annotated[str, Path(alias="id", description="The id of the message.")],
    actor: CurrentActor,
    context: Context,
    limiter: CurrentReadLimiter,
) -> Response:
    """Cancel a message with `not_before` that the caller could send itself, unless it is committed or cancelled."""
    agenda = context.store.agenda
    await limiter.charge_delayed_message(uid, message_id)
    raw = await agenda.delayed(uid, message_id)
    may_cancel = raw is not None and _may_cancel(decode_delayed_header(raw), actor, context)
    if not may_cancel or not await agenda.cancel_delayed(uid, message_id):
        detail = "No delayed message has this id: it was committed or cancelled, or never sent."
        raise Problem("not_found", detail)
    return Response(status_code=204)


def _may_cancel(message: DelayedMessage, actor: Actor, context: IngestContext) -> bool:
    """Return whether the caller could send the message itself. A reset needs the scope of a reset."""
    if message.is_reset and not actor.has_scope("admin"):
        return False
    sender, _ = actor.sender_and_view(None)
    return message.may_be_cancelled_by(sender, context.limits, context.categories.current)
