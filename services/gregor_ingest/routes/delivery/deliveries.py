"""What was told to a user who was not looking: each delivery, where it stands, and why."""

from __future__ import annotations

from typing import Annotated, Any, Final

import msgspec
from fastapi import APIRouter, Query, Response

from gregor.core.errors import Problem
from gregor.core.ids import is_name
from gregor.core.notify.intents import CHANNELS, IntentKind
from gregor.core.notify.ledger import DeliveryAttempt, DeliveryRecord, encode_delivery_id
from gregor.core.notify.webhook_events import webhook_and_call_id
from gregor.core.times import format_time
from gregor_ingest.guarded_route import Context, GuardedRoute
from gregor_ingest.responses import documented, json_response
from gregor_ingest.schemas.examples import DELIVERY
from gregor_ingest.schemas.requests import NAME_SCHEMA

router: Final = APIRouter(route_class=GuardedRoute, tags=["deliveries"])

MOST_ITEMS: Final = 100
"""Items whose deliveries one answer has."""


@router.get(
    "/v1/users/{uid}/deliveries",
    operation_id="listDeliveries",
    summary="Deliveries of a user",
    responses=documented(200, "The newest item first; of an item the oldest delivery first.", {"entries": [DELIVERY]}),
    response_class=Response,
)
async def list_deliveries(
    uid: str,
    context: Context,
    item: Annotated[str | None, Query(description="Only of this item.", json_schema_extra=NAME_SCHEMA)] = None,
) -> Response:
    """Of the newest 100 items that have any, or of one item. Neither tokens nor addresses are shown."""
    if item is not None and not is_name(item):
        raise Problem("invalid_id", "The query parameter item is no id.")
    ledger = context.store.ledger
    found = await (ledger.of_user(uid, MOST_ITEMS) if item is None else ledger.of_item(uid, item))
    entries = [shown(each) for each in found if each.intent.channel in CHANNELS]
    return json_response({"entries": entries}, headers={"Cache-Control": "no-store"})


def shown(delivery: DeliveryRecord) -> dict[str, Any]:
    """A delivery as it goes out."""
    intent, history = delivery.intent, delivery.history
    entry = {
        "id": encode_delivery_id(intent),
        "item": intent.item,
        "intent": intent.kind.value,
        "channel": intent.channel,
        "device": intent.device or None,
        "state": delivery.state.word,
        "reason": history.reason,
        "n": intent.n,
        "next": None if history.next_us is None else msgspec.Raw(format_time(history.next_us)),
        "attempts": [_attempt(each) for each in history.attempts],
    }
    if intent.kind is IntentKind.EVENT:
        webhook, call_id = webhook_and_call_id(intent)
        entry |= {"device": None, "webhook": webhook, "webhook_id": call_id}
    return entry


def _attempt(attempt: DeliveryAttempt) -> dict[str, Any]:
    return {
        "at": msgspec.Raw(format_time(attempt.at_us)),
        "status": attempt.status,
        "provider_id": attempt.provider_id,
        "detail": attempt.detail,
    }
