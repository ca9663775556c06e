"""``POST /v1/users/{uid}/messages``: one message of one user.

This is the hottest route, so it is a plain ASGI application: FastAPI's request handling costs as much as the message.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from functools import partial
from typing import Any, Final

from msgspec.structs import replace
from starlette.types import Receive, Scope, Send

from gregor.core.errors import Problem
from gregor.core.ids import is_name
from gregor.core.items.sync import View
from gregor.core.json_text import decode_json
from gregor.core.limits import Limits
from gregor.core.messages.model import Message, Sender, UserReset
from gregor.core.messages.parse import parse_message
from gregor.core.messages.parse_fast import parse_fast
from gregor.tracing import names
from gregor.tracing.tracer import Span, SpanKind
from gregor.web.request import JSON, media_type, message_too_large, read_body
from gregor_ingest.auth.actor import Actor
from gregor_ingest.auth.rules import access_rule
from gregor_ingest.context import IngestContext
from gregor_ingest.dry_run import dry_run, is_dry_run
from gregor_ingest.rate_limits import MESSAGES
from gregor_ingest.request import parse_query

from .durability import asks_for_replicas, with_durability

PATH: Final = "/v1/users/{uid}/messages"
_RULE: Final = access_rule("POST", PATH)
_CONTENT_TYPE: Final = (b"content-type", b"application/json")
SHORT_BYTES: Final = 1_024
"""Size up to which the cost of a message is not measured, unless it is a dry run."""
PAUSE_BYTES: Final = 16_384
"""Size of a message that yields to the event loop between its steps."""
_NO_DOCUMENT: Final[dict[str, Any]] = {}


class SendMessage:
    """The endpoint ``sendMessage`` as an ASGI application."""

    def __init__(self, context: IngestContext) -> None:
        self._context = context
        self._authorizer = context.authorizer
        self._rate_limiter = context.rate_limiter
        self._submitter = context.submitter
        self._limits = context.limits
        self._replication = context.store.replication
        self._tracer = context.tracer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Authorize, parse and submit one message, and respond with its receipt."""
        scope["gregor.operation"] = "sendMessage"
        actor = await self._authorizer.authorize(_RULE, scope)
        span = self._start_span(actor, scope) if self._tracer.is_on else None
        # An empty block (`with span or NOT_SAMPLED`) would cost each message 0.25 µs; this second coroutine costs 0.15.
        if span is None:
            await self._receive(actor, scope, receive, send, None)
        else:
            with span:
                await self._receive(actor, scope, receive, send, span)

    async def _receive(self, actor: Actor, scope: Scope, receive: Receive, send: Send, span: Span | None) -> None:
        headers, uid = scope["gregor.headers"], scope["path_params"]["uid"]
        # First, because a refused request costs as much as a valid one.
        await self._rate_limiter.check_message(actor, scope)
        is_dry = is_dry_run(parse_query(scope["query_string"], ("dry_run",)))
        media_type(headers, JSON)
        most = self._limits.message_bytes
        raw = await read_body(headers, receive, most, lambda: message_too_large(most))
        charged = await self._rate_limiter.check_text(actor, scope, len(raw))
        given = uid, actor, raw, charged, scope, send, span, is_dry
        # To measure a short message would take 6 % of its time, and its work is bounded.
        if is_dry or len(raw) > SHORT_BYTES:
            async with self._rate_limiter.concurrency(actor):
                await self._rate_limiter.run(actor, scope, MESSAGES, self._respond(*given))
        else:
            await self._respond(*given)

    async def _respond(
        self,
        uid: str,
        actor: Actor,
        raw: bytes,
        charged: int,
        scope: Scope,
        send: Send,
        span: Span | None,
        is_dry: bool,
    ) -> None:
        headers = scope["gregor.headers"]
        await self._authorizer.confirm(scope)
        document, message = _parse_fast(raw, self._limits) or await _parse(raw, self._limits)
        message = with_idempotency_key(message, headers)
        is_replicated = asks_for_replicas(headers)
        sender, view = authorize_message(message, actor)
        is_device = actor.caller is not None
        weight = self._submitter.weight(message, is_device=is_device)
        await self._rate_limiter.check_weight(actor, scope, weight, charged)
        charge = partial(self._rate_limiter.charge_message, actor, scope)
        # A dry run costs as much as the message, so it counts against the same rate limit (above).
        if is_dry:
            given = {"shows_deliveries": actor.may_see_deliveries, "is_device": is_device}
            body = await dry_run(uid, message, sender, view, self._context, charge, **given)
        else:
            mark = await self._replication.prepare((uid,)) if is_replicated else None
            key_id = "" if actor.key is None else actor.key.id
            submitted = await self._submitter.submit(
                uid, message, document, sender, view, key_id, actor.issued_us, span, charge
            )
            body = submitted.receipt
            if isinstance(message.content, UserReset):
                await self._context.audit.record_reset(scope, actor, uid)
            if mark is not None:
                confirmed = await self._replication.confirm(mark)
                body = with_durability(body, confirmed[uid], self._replication.required)
        response_headers = [_CONTENT_TYPE, (b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": 200, "headers": response_headers})
        await send({"type": "http.response.body", "body": body})

    def _start_span(self, actor: Actor, scope: Scope) -> Span | None:
        """Return the span of the request if it is sampled. Only a backend's ``traceparent`` counts.

        A device could otherwise have every message of its user recorded.
        """
        offered = None if actor.key is None else scope["gregor.headers"].get(b"traceparent")
        traceparent = None if offered is None else offered.decode("latin-1")
        span = self._tracer.start(names.SEND_MESSAGE, SpanKind.SERVER, traceparent)
        if span is not None:
            span.attributes |= {names.TRANSPORT: "http", names.REQUEST_ID: scope["gregor.request_id"]}
        return span


def _parse_fast(raw: bytes, limits: Limits) -> tuple[Mapping[str, Any], Message] | None:
    """Return the message as the fast parser reads it, and no document: such a message needs none."""
    plain = parse_fast(raw, limits)
    # A uid in the body is an unknown field here, as the general parser says.
    return None if plain is None or plain[0] is not None else (_NO_DOCUMENT, plain[1])


async def _parse(raw: bytes, limits: Limits) -> tuple[Mapping[str, Any], Message]:
    """Return the decoded document and its message."""
    document = decode_json(raw, limits, has_stand_ins=True)
    if len(raw) > PAUSE_BYTES:
        await asyncio.sleep(0)  # 100 KB take 1 ms to decode, and 1 ms to parse
    return document, parse_message(document, limits)


def with_idempotency_key(message: Message, headers: Mapping[bytes, bytes]) -> Message:
    """Return the message with the id of the header ``Idempotency-Key``, if there is one; see ``idempotency_key``."""
    key = idempotency_key(headers, message.id)
    return message if key == message.id else replace(message, id=key)


def idempotency_key(headers: Mapping[bytes, bytes], field_id: str | None) -> str | None:
    """Return the id of a request: of the header ``Idempotency-Key``, or of the field ``id``.

    Raises ``Problem`` if the header is not a valid id, or differs from the field.
    """
    offered = headers.get(b"idempotency-key")
    if offered is None:
        return field_id
    key = offered.decode("latin-1").strip()
    if key.startswith('"') and key.endswith('"'):  # a string of structured fields (RFC 9651)
        key = key[1:-1]
    if not is_name(key):
        detail = "The header Idempotency-Key is not a valid id: use letters, digits and ._:@-, up to 128 characters."
        raise Problem("invalid_id", detail)
    if field_id is not None and field_id != key:
        raise Problem("invalid", "The header Idempotency-Key and the field id are different; send only one of them.")
    return key


def authorize_message(message: Message, actor: Actor) -> tuple[Sender, View]:
    """Return the sender of a message and the view of its receipt. Raises ``forbidden`` without the scope it needs."""
    actor.require_scope("admin" if isinstance(message.content, UserReset) else "ingest")
    return actor.sender_and_view(message.device)
