"""The responses of the API. Routes return these objects; their JSON Schemas go into the OpenAPI document.

The name of a component is the class name without ``Response``. Clients ignore unknown members, so the schemas allow
them. Hot responses (receipts, state, sync, history) are encoded by ``gregor.core.messages.encode`` instead: here only
their shape is declared, and tests compare real responses with it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal

from msgspec import UNSET, Meta, Raw, Struct, UnsetType

from gregor.core.errors import ERRORS
from gregor.core.messages.model import IgnoredReason, RemovalReason
from gregor.core.notify.intents import IntentKind
from gregor.core.notify.ledger import DeliveryState
from gregor_ingest.auth.rules import SCOPES

from .documents import True_
from .fields import (
    CategoryText,
    Count,
    CursorText,
    DigestText,
    JsonTime,
    NameText,
    PrefixText,
    UserIdText,
)

ScopeText = Annotated[str, Meta(extra_json_schema={"enum": list(SCOPES)})]
IgnoredReasonText = Annotated[str, Meta(extra_json_schema={"enum": [reason.value for reason in IgnoredReason]})]
RemovalReasonText = Annotated[str, Meta(extra_json_schema={"enum": [reason.wire_name for reason in RemovalReason]})]
IntentText = Annotated[str, Meta(extra_json_schema={"enum": [kind.value for kind in IntentKind]})]
DeliveryStateText = Annotated[str, Meta(extra_json_schema={"enum": [state.wire_name for state in DeliveryState]})]
TimelineEventText = Annotated[
    str,
    Meta(
        extra_json_schema={
            "enum": [
                "created", "reminded", "acked", "planned", "waiting", "sent", "retry", "withdrawn", "cancelled",
                "dead", "dismissed", "expired",
            ]
        }
    ),
]  # fmt: skip
ErrorCodeText = Annotated[str, Meta(extra_json_schema={"enum": list(ERRORS)})]

# --- Errors


class FieldErrorResponse(Struct):
    """One invalid field of a request."""

    pointer: Annotated[str, Meta(description="A JSON Pointer (RFC 6901) into the request body.")]
    detail: str


NotReplicatedReceipt = Annotated[
    dict[str, Any], Meta(description="With `not_replicated`: the receipt of the message, which was committed.")
]
ConfirmedCount = Annotated[int, Meta(ge=0, description="With `not_replicated`: how many replicas have the message.")]


class ProblemResponse(Struct, kw_only=True):
    """An error, as RFC 9457 problem details."""

    type: Annotated[str, Meta(description="The page that explains the code: /errors#<code>.")]
    title: str
    status: int
    detail: str
    code: ErrorCodeText
    request_id: str
    errors: list[FieldErrorResponse] | UnsetType = UNSET
    receipt: NotReplicatedReceipt | UnsetType = UNSET
    replicas: ConfirmedCount | UnsetType = UNSET


class LineProblemResponse(Struct, kw_only=True):
    """The error of one line of a batch."""

    type: str
    title: str
    status: int
    detail: str
    code: ErrorCodeText
    errors: list[FieldErrorResponse] | UnsetType = UNSET
    retry_after_ms: Annotated[int, Meta(ge=1)] | UnsetType = UNSET
    receipt: NotReplicatedReceipt | UnsetType = UNSET
    replicas: ConfirmedCount | UnsetType = UNSET


# --- Items, as they are stored


class StoredTimesResponse(Struct, kw_only=True):
    """The times of an item."""

    created: JsonTime
    expires: JsonTime | UnsetType = UNSET
    remind_at: Annotated[list[JsonTime], Meta(min_length=1)] | UnsetType = UNSET


class StoredItemResponse(Struct, kw_only=True):
    """An item of the state or the history."""

    times: StoredTimesResponse
    for_device: Annotated[str | None, Meta(description="A device, `*` for each device, null for all.")]
    category: CategoryText
    body: Annotated[Any, Meta(description="Any JSON; null if it was not set, or is no longer stored.")]
    trimmed: Annotated[True_, Meta(description="The body is no longer stored.")] | UnsetType = UNSET


class GoneResponse(Struct, kw_only=True):
    """When and why an item left the state."""

    at: JsonTime
    reason: RemovalReasonText
    device: NameText | None
    seq: Count


class RenderingResponse(Struct, kw_only=True):
    """The rendered texts of an item."""

    title: str
    text: str | None
    link: str | None


Items = dict[NameText, StoredItemResponse]
Renderings = Annotated[
    dict[NameText, RenderingResponse], Meta(description="With `render`: texts of the items that have any.")
]


# --- Receipts


class PlannedDeliveryResponse(Struct, kw_only=True):
    """A delivery that a dry run predicts, or the reason why there is none."""

    item: NameText
    intent: IntentText
    n: Count
    channel: str | None
    device: NameText | None
    at: JsonTime | None
    reason: str | None


DurabilityText = Annotated[
    Literal["replicated"], Meta(description="With `Gregor-Durability: replicated`: enough replicas have the message.")
]
ReplicasCount = Annotated[int, Meta(ge=1, description="How many replicas have the message.")]


class ReceiptResponse(Struct, kw_only=True):
    """The effect of a message."""

    cursor: CursorText
    seq: Count
    created: list[NameText] | UnsetType = UNSET
    dismissed: list[NameText] | UnsetType = UNSET
    ignored: dict[NameText, IgnoredReasonText] | UnsetType = UNSET
    unchanged: True_ | UnsetType = UNSET
    durability: DurabilityText | UnsetType = UNSET
    replicas: ReplicasCount | UnsetType = UNSET
    dry_run: True_ | UnsetType = UNSET
    deliveries: list[PlannedDeliveryResponse] | UnsetType = UNSET
    warnings: Annotated[list[str], Meta(description="With `dry_run`: probable mistakes.")] | UnsetType = UNSET


class WaitingResponse(Struct, kw_only=True):
    """The receipt of a delayed message."""

    id: NameText
    not_before: JsonTime
    durability: DurabilityText | UnsetType = UNSET
    replicas: ReplicasCount | UnsetType = UNSET


class DelayedMessageResponse(Struct, kw_only=True):
    """A message that waits for its time."""

    id: NameText
    not_before: JsonTime
    system: str
    device: Annotated[NameText | None, Meta(description="The device that sent it; null for a backend.")]
    accepted: Annotated[JsonTime | None, Meta(description="When it was accepted; null if that is not known.")]


class DelayedMessagesResponse(Struct):
    """The delayed messages of a user."""

    messages: list[DelayedMessageResponse]


class OutcomeResponse(Struct, kw_only=True):
    """The result of one pair of line and uid of a batch: `receipt` or `problem`."""

    line: Count
    uid: UserIdText | None
    receipt: Annotated[Raw, Meta(extra_json_schema={"$ref": "#/components/schemas/Accepted"})] | UnsetType = UNSET
    problem: LineProblemResponse | UnsetType = UNSET


# --- Reads


class StateResponse(Struct, kw_only=True):
    """The live items of a view."""

    cursor: Annotated[CursorText, Meta(description="Missing if the query had `at`.")] | UnsetType = UNSET
    digest: DigestText
    badge: Annotated[Count, Meta(description="Items that count in the badge.")] | UnsetType = UNSET
    items: Items
    rendered: Renderings | UnsetType = UNSET


class SyncDismissalResponse(Struct):
    """Items that left the view."""

    ids: list[NameText]


class SyncBodyResponse(Struct, kw_only=True):
    """The changes to apply to the copy."""

    create: Items | UnsetType = UNSET
    dismiss: SyncDismissalResponse | UnsetType = UNSET


class ExternalResponse(Struct, kw_only=True):
    """A message of another system. ``device``: the device that sent it, if it is not from a backend."""

    system: CategoryText
    seq: Count
    body: Any
    device: NameText | UnsetType = UNSET


class SyncResponse(Struct, kw_only=True):
    """The changes that bring a copy up to date."""

    system: Annotated[str, Meta(extra_json_schema={"const": "gregor"})]
    sync: Annotated[str, Meta(extra_json_schema={"enum": ["full", "delta", "unchanged"]})]
    seq: Count
    cursor: CursorText
    digest: DigestText | UnsetType = UNSET
    body: SyncBodyResponse | UnsetType = UNSET
    external: list[ExternalResponse] | UnsetType = UNSET
    external_gap: Annotated[True_, Meta(description="Older external messages were lost.")] | UnsetType = UNSET
    rendered: Renderings | UnsetType = UNSET


class TimelineEntryResponse(Struct, kw_only=True):
    """One event in the life of an item."""

    at: JsonTime
    event: TimelineEventText
    channel: str | UnsetType = UNSET
    device: NameText | UnsetType | None = UNSET
    n: Count | UnsetType = UNSET
    intent: IntentText | UnsetType = UNSET
    detail: str | UnsetType | None = UNSET
    until: JsonTime | UnsetType = UNSET


class HistoryEntryResponse(Struct, kw_only=True):
    """An item, live or gone."""

    id: NameText
    item: StoredItemResponse
    seq: Count
    gone: GoneResponse | None


class ItemStoryResponse(Struct, kw_only=True):
    """An item, live or gone, with its timeline."""

    id: NameText
    item: StoredItemResponse
    seq: Count
    gone: GoneResponse | None
    timeline: list[TimelineEntryResponse]
    rendered: Renderings | UnsetType = UNSET


class HistoryResponse(Struct, kw_only=True):
    """One page of the history, newest first."""

    entries: list[HistoryEntryResponse]
    rendered: Renderings | UnsetType = UNSET


# --- Devices


class DevicePushResponse(Struct, kw_only=True):
    """The push registration of a device."""

    provider: Annotated[str, Meta(extra_json_schema={"enum": ["apns", "fcm", "webpush"]})]
    token: Annotated[str, Meta(pattern="^…", description="The last four characters of the token.")]
    topic: str | UnsetType = UNSET
    sandbox: bool


class PresenceResponse(Struct, kw_only=True):
    """Whether any device of a user is connected. If that is unknown, the other fields say nothing."""

    online: bool
    foreground: bool
    last_seen: JsonTime | None
    unknown: True_ | UnsetType = UNSET


class DeviceResponse(Struct, kw_only=True):
    """A device: its registration and its presence."""

    online: bool
    foreground: bool
    last_seen: JsonTime | None
    platform: str | None
    push: DevicePushResponse | None
    locale: str | None


class DevicesResponse(Struct):
    """The devices of a user, by name."""

    devices: dict[NameText, DeviceResponse]


class RevokedResponse(Struct, kw_only=True):
    """The tokens that are revoked now."""

    device: Annotated[NameText | None, Meta(description="Null: the tokens of all devices.")]
    issued_before: Annotated[
        JsonTime, Meta(description="The time that this call set. An earlier call may have set a later one.")
    ]


# --- Contact


class QuietHoursResponse(Struct, rename={"from_": "from"}):
    """The daily hours without notifications, by the user's clock."""

    from_: str
    to: str


class ContactResponse(Struct, kw_only=True):
    """How a user can be reached."""

    email: str | UnsetType = UNSET
    locale: str | UnsetType = UNSET
    timezone: str | UnsetType = UNSET
    quiet_hours: QuietHoursResponse | UnsetType = UNSET


class UserQuietHoursResponse(Struct, kw_only=True):
    """When notifications of a user wait."""

    timezone: str | UnsetType = UNSET
    quiet_hours: QuietHoursResponse | UnsetType = UNSET


class ChannelsResponse(Struct, kw_only=True):
    """Which channels may be used."""

    push: bool | UnsetType = UNSET
    email: bool | UnsetType = UNSET


class SuppressionResponse(Struct, kw_only=True):
    """An address that gets no e-mail."""

    email: str
    reason: str
    since: JsonTime


class SuppressionsResponse(Struct):
    """One page of suppressed addresses, newest first."""

    entries: list[SuppressionResponse]


# --- Deliveries


class AttemptResponse(Struct, kw_only=True):
    """One request to a provider."""

    at: JsonTime
    status: str
    provider_id: str | None
    detail: str


class DeliveryResponse(Struct, kw_only=True):
    """A delivery: one item, one channel, one device or address."""

    id: str
    item: NameText
    intent: IntentText
    channel: str
    device: NameText | None
    state: DeliveryStateText
    reason: str | None
    n: Count
    next: Annotated[JsonTime | None, Meta(description="When it is tried again.")]
    attempts: list[AttemptResponse]
    webhook: str | UnsetType = UNSET
    webhook_id: str | UnsetType = UNSET


class DeliveriesResponse(Struct):
    """The deliveries of a user."""

    entries: list[DeliveryResponse]


class DeadLetterResponse(DeliveryResponse, kw_only=True):
    """A delivery that failed for good."""

    uid: UserIdText
    at: JsonTime


class DeadLettersResponse(Struct):
    """One page of dead letters, newest first. ``partial``: those of an unreachable store server are missing."""

    entries: list[DeadLetterResponse]
    partial: bool | UnsetType = UNSET


class PurgedResponse(Struct):
    """How many dead letters were removed."""

    purged: Count


class ReplayedResponse(Struct):
    """The delivery that is tried again."""

    id: str


# --- Administration


class TicketResponse(Struct, kw_only=True):
    """A ticket for one stream."""

    ticket: str
    expires: JsonTime


class PositionResponse(Struct):
    """The position of a user after a reset."""

    cursor: CursorText


class SpreadResponse(Struct):
    """The seconds over which devices get full copies."""

    spread: Count


class JobResponse(Struct, kw_only=True):
    """A job: long work for many users."""

    id: NameText
    kind: str
    state: Annotated[str, Meta(extra_json_schema={"enum": ["waiting", "running", "done", "cancelled", "failed"]})]
    params: dict[str, Any]
    done: Count
    total: Annotated[Count, Meta(description="0 until the first step.")]
    created: JsonTime
    changed: JsonTime
    reason: Annotated[str | None, Meta(description="Why the job waits or failed.")]
    result: Annotated[Any, Meta(description="Counts or findings of the job so far; null for a flush.")]


class JobsResponse(Struct):
    """Jobs, newest first."""

    jobs: list[JobResponse]


class UpgradeProcessResponse(Struct, kw_only=True):
    """A running process, and the formats that it reads and writes."""

    process: Annotated[str, Meta(description="Host, process id and a random part.")]
    service: Annotated[str, Meta(extra_json_schema={"enum": ["ingest", "gateway", "scheduler", "delivery"]})]
    release: str
    # A tuple would be described by `"items": false`, which some generators of clients cannot read.
    reads: Annotated[list[int], Meta(min_length=2, max_length=2, description="The lowest and the highest format.")]
    writes: Count
    blocks: Annotated[bool, Meta(description="It cannot read the newest format, so no process writes that yet.")]


class UpgradeResponse(Struct, kw_only=True):
    """The written format of the deployment, and its running processes."""

    state: Annotated[Literal["finished", "possible", "blocked"], Meta(description="Whether finishing is possible.")]
    written: Annotated[Count, Meta(description="The format that all processes write.")]
    newest: Annotated[Count, Meta(description="The highest format that a running process reads.")]
    oldest: Annotated[Count, Meta(description="The lowest format that a stored value may have.")]
    release: Annotated[str, Meta(description="The release that began to write the written format.")]
    processes: list[UpgradeProcessResponse]


class KeyResponse(Struct, kw_only=True):
    """A service key, without its secret."""

    id: str
    scopes: list[ScopeText]
    prefixes: list[PrefixText] | None
    rate: float | None
    created: JsonTime
    name: str | UnsetType = UNSET
    systems: list[PrefixText] | None
    expires: JsonTime | None
    addresses: list[str] | None
    last_used: Annotated[
        JsonTime | None, Meta(description="The last use, to the minute; null if the key was never used.")
    ]


class NewKeyResponse(KeyResponse, kw_only=True):
    """A service key with its secret, which is never shown again."""

    key: Annotated[str, Meta(pattern="^gk_")]


class KeysResponse(Struct):
    """All service keys, by id."""

    keys: list[KeyResponse]


class AuditEventResponse(Struct, kw_only=True):
    """A write of a service key. User ids and delivery ids in the target are hashed."""

    at: JsonTime
    key: Annotated[str, Meta(description="The id of the key; `cli`: `gregor keys` used Redis without an ingest.")]
    act: Annotated[str, Meta(description="The operation id of this document, such as `deleteUser`.")]
    target: Annotated[
        dict[str, str],
        Meta(
            description="The path parameters, `created`, and the scopes and limits of a new key. "
            "A `uid` is the first half of its SHA-256."
        ),
    ]
    outcome: Annotated[str, Meta(description="`ok`, or the code of the problem.")]
    request_id: str
    client: Annotated[str | None, Meta(description="The address of the client.")]


class AuditEventsResponse(Struct):
    """A page of the audit trail, newest first."""

    entries: list[AuditEventResponse]


class DisabledResponse(Struct, kw_only=True):
    """When and why a webhook was disabled."""

    at: JsonTime
    reason: str | None


class WebhookResponse(Struct, kw_only=True):
    """A webhook, without its secrets."""

    id: str
    url: str
    events: list[str] | None
    category_prefix: list[PrefixText] | None
    name: str | None
    created: JsonTime
    enabled: bool
    disabled: DisabledResponse | None


class NewWebhookResponse(WebhookResponse, kw_only=True):
    """A webhook with its newest secret, which is never shown again."""

    secret: Annotated[str, Meta(pattern="^whsec_")]


class WebhooksResponse(Struct):
    """All webhooks, by id."""

    webhooks: list[WebhookResponse]


class CategoriesResponse(Struct):
    """All category entries, and their version."""

    version: Count
    categories: Annotated[Mapping[str, Any], Meta(extra_json_schema={"additionalProperties": {"type": "object"}})]


class PreviewResponse(Struct, kw_only=True):
    """The rendered texts of an item; null if the category has no such text.

    ``warnings``: present if the category has no entry.
    """

    title: str | None
    text: str | None
    link: str | None
    subject: str | None
    html: str | None
    warnings: list[str] | UnsetType = UNSET


class WebPushKeyResponse(Struct):
    """The public VAPID key."""

    public_key: str


# --- Probes


class AliveResponse(Struct):
    """The process runs."""

    alive: True_


class ReadinessChecksResponse(Struct, kw_only=True):
    """The individual checks of the readiness probe."""

    redis: str
    probe: str
    draining: bool
    shards: list[str] | UnsetType = UNSET
    unread: list[str] | UnsetType = UNSET


class ReadyResponse(Struct):
    """Whether the process can serve requests."""

    ready: bool
    checks: ReadinessChecksResponse


COMPOSED: Final[dict[str, dict[str, Any]]] = {
    "Accepted": {
        "description": "The receipt of a message, or of a delayed one.",
        "anyOf": [{"$ref": "#/components/schemas/Receipt"}, {"$ref": "#/components/schemas/Waiting"}],
    },
    "Outcomes": {"type": "array", "items": {"$ref": "#/components/schemas/Outcome"}},
    "Presences": {
        "type": "object",
        "description": "The presence of users, by uid.",
        "additionalProperties": {"$ref": "#/components/schemas/Presence"},
    },
    "Preferences": {
        "type": "object",
        "description": "Which channels may be used, by category prefix, or `*`.",
        "additionalProperties": {"$ref": "#/components/schemas/Channels"},
    },
    "Category": {"type": "object", "description": "The fields of one category entry.", "additionalProperties": True},
}
"""Responses that are a union, an array or a map, which a struct cannot be."""
