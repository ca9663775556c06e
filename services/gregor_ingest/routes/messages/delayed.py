"""``DELETE /v1/users/{uid}/messages/{id}``: take back a message that waits for its time."""

from __future__ import annotations

from typing import Annotated, Final

from fastapi import APIRouter, Path, Response

from gregor.core.errors import Problem
from gregor.core.messages.delayed import decode_delayed_message
from gregor_ingest.guarded_route import Context, CurrentActor, GuardedRoute
from gregor_ingest.responses import documented

router: Final = APIRouter(route_class=GuardedRoute, tags=["messages"])


@router.delete(
    "/v1/users/{uid}/messages/{id}",
    operation_id="cancelMessage",
    summary="Take back a delayed message",
    status_code=204,
    responses=documented(204, "It is cancelled.", None, "not_found"),
    response_class=Response,
)
async def cancel(
    uid: str,
    message_id: Annotated[str, Path(alias="id", description="The message's id.")],
    actor: CurrentActor,
    context: Context,
) -> Response:
    """Cancel a message sent with `not_before`. Once it is committed, or cancelled, there is none: 404."""
    agenda = context.store.agenda
    raw = await agenda.delayed(uid, message_id)
    if (
        raw is None
        or not decode_delayed_message(raw).is_within(actor.category_filter)
        or not await agenda.cancel_delayed(uid, message_id)
    ):
        raise Problem("not_found", "No message waits under this id: it was committed, cancelled, or never sent.")
    return Response(status_code=204)
