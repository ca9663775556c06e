"""Deliveries of a user: push notifications, e-mails and webhook calls, with state and reason."""

from __future__ import annotations

from typing import Annotated, Any, Final

from fastapi import APIRouter, Query, Response

from gregor.core.errors import Problem
from gregor.core.ids import is_name
from gregor.core.items.read_cost import listing_weight
from gregor.core.notify.intents import CHANNELS, IntentKind
from gregor.core.notify.ledger import DeliveryAttempt, DeliveryRecord, encode_delivery_id
from gregor.core.notify.webhook_events import webhook_and_call_id
from gregor_ingest.guarded_route import Context, CurrentReadLimiter, GuardedRoute
from gregor_ingest.responses import documented, json_response
from gregor_ingest.schemas.examples import DELIVERY
from gregor_ingest.schemas.fields import NAME_SCHEMA, json_time, json_time_or_null
from gregor_ingest.schemas.responses import AttemptResponse, DeliveriesResponse, DeliveryResponse

router: Final = APIRouter(route_class=GuardedRoute, tags=["deliveries"])

MAX_ITEMS: Final = 100
"""Items whose deliveries one response contains."""
MAX_RECORDS: Final = 2_000
"""Deliveries after which a response contains no further item. An item with reminders on 64 devices has thousands."""


@router.get(
    "/v1/users/{uid}/deliveries",
    operation_id="listDeliveries",
    summary="List the deliveries of a user",
    responses=documented(
        200,
        "Deliveries of the newest item first; of an item, the oldest delivery first.",
        DeliveriesResponse,
        {"entries": [DELIVERY]},
    ),
    response_class=Response,
)
async def list_deliveries(
    uid: str,
    context: Context,
    limiter: CurrentReadLimiter,
    item: Annotated[str | None, Query(description="Only of this item.", json_schema_extra=NAME_SCHEMA)] = None,
) -> Response:
    """Return the deliveries of the newest 100 items, or of one item, without push tokens and addresses.

    After 2,000 deliveries no further item follows.
    """
    if item is not None and not is_name(item):
        raise Problem("invalid_id", "The query parameter item is not a valid item id.")
    await limiter.charge(listing_weight(1 if item is not None else MAX_ITEMS))
    ledger = context.store.ledger
    records = await (ledger.of_user(uid, MAX_ITEMS, MAX_RECORDS) if item is None else ledger.of_item(uid, item))
    entries = [DeliveryResponse(**delivery_members(each)) for each in records if each.intent.channel in CHANNELS]
    return json_response(DeliveriesResponse(entries))


def delivery_members(delivery: DeliveryRecord) -> dict[str, Any]:
    """Return the members of ``DeliveryResponse``."""
    intent, history = delivery.intent, delivery.history
    members = {
        "id": encode_delivery_id(intent),
        "item": intent.item,
        "intent": intent.kind.value,
        "channel": intent.channel,
        "device": intent.device or None,
        "state": delivery.state.wire_name,
        "reason": history.reason,
        "n": intent.n,
        "next": json_time_or_null(history.next_us),
        "attempts": [_attempt(each) for each in history.attempts],
    }
    if intent.kind is IntentKind.EVENT:
        webhook, call_id = webhook_and_call_id(intent)
        members |= {"device": None, "webhook": webhook, "webhook_id": call_id}
    return members


def _attempt(attempt: DeliveryAttempt) -> AttemptResponse:
    at = json_time(attempt.at_us)
    return AttemptResponse(at=at, status=attempt.status, provider_id=attempt.provider_id, detail=attempt.detail)
