"""``DELETE /v1/users/{uid}/messages/{id}``: cancel a delayed message."""

from __future__ import annotations

from typing import Annotated, Final

from fastapi import APIRouter, Path, Response

from gregor.core.errors import Problem
from gregor.core.messages.delayed import DelayedMessage, decode_delayed_message
from gregor_ingest.auth import Actor
from gregor_ingest.context import IngestContext
from gregor_ingest.guarded_route import Context, CurrentActor, GuardedRoute
from gregor_ingest.responses import documented

router: Final = APIRouter(route_class=GuardedRoute, tags=["messages"])


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
) -> Response:
    """Cancel a message with `not_before` that the caller could send itself, unless it is committed or cancelled."""
    agenda = context.store.agenda
    raw = await agenda.delayed(uid, message_id)
    may_cancel = raw is not None and _may_cancel(decode_delayed_message(raw), actor, context)
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
