"""``POST /v1/users/{uid}/messages``: one message of one user. The hottest route: plain ASGI, nothing made twice."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import Any, Final

from msgspec.structs import replace
from starlette.types import Receive, Scope, Send

from gregor.core.errors import Problem
from gregor.core.ids import is_name
from gregor.core.items.sync import View
from gregor.core.json_text import decode_json
from gregor.core.limits import Limits
from gregor.core.messages.delayed import Delayed, check_kept, delayed
from gregor.core.messages.encode import encode_receipt
from gregor.core.messages.model import Commit, External, Flush, Message
from gregor.core.messages.parse import parse_message
from gregor.core.messages.parse_fast import read_plain
from gregor.core.messages.plan import plan
from gregor.web.request import JSON, media_type, message_too_large, read_body
from gregor_ingest.auth import Actor, access_rule, check_rate
from gregor_ingest.context import IngestContext
from gregor_ingest.dry_run import dry_run, is_dry_run
from gregor_ingest.request import parse_query

PATH: Final = "/v1/users/{uid}/messages"
_RULE: Final = access_rule("POST", PATH)
_HEAD: Final = (b"content-type", b"application/json")


class SendMessage:
    """The endpoint as an ASGI application: no request object, no model, one write."""

    def __init__(self, context: IngestContext) -> None:
        self._parts = context

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a message with its receipt."""
        scope["gregor.operation"] = "sendMessage"
        context, headers, uid = self._parts, scope["gregor.headers"], scope["path_params"]["uid"]
        actor = await context.authorizer.authorize(_RULE, headers.get(b"authorization"), scope["path_params"], None)
        is_rehearsed = is_dry_run(parse_query(scope["query_string"], ("dry_run",)))
        media_type(headers, JSON)
        check_rate(await context.authorizer.take(actor))
        most = context.limits.message_bytes
        raw = await read_body(headers, receive, most, lambda: message_too_large(most))
        document, message = _read(raw, context.limits)
        message = named(message, headers)
        commit, view = planned(message, actor, context)
        if is_rehearsed:
            body = await dry_run(uid, commit, view, isinstance(message.content, External), context)
        elif message.not_before_us is not None:
            kept = delayed(document, message, commit.sender, secrets.token_hex(16))
            body = await keep(uid, kept, message.not_before_us, context)
        else:
            receipt = await context.store.users.commit(uid, commit)
            context.count((receipt,))
            body = encode_receipt(receipt, view, isinstance(message.content, External))
        await send(
            {
                "type": "http.response.start",
                "status": 200,
                "headers": [_HEAD, (b"content-length", b"%d" % len(body))],
            }
        )
        await send({"type": "http.response.body", "body": body})


def _read(raw: bytes, limits: Limits) -> tuple[Any, Message]:
    """The message of a JSON text, and the document that it stands in (``None`` where nobody will ask for it)."""
    plain = read_plain(raw, limits)
    if plain is not None and plain[0] is None:  # the uid stands in the path alone
        return None, plain[1]
    document = decode_json(raw, limits, has_stand_ins=True)
    return document, parse_message(document, limits)


async def keep(uid: str, kept: Delayed, not_before_us: int, context: IngestContext) -> bytes:
    """Keep a message until its time; the receipt. ``id_reused``, ``state_full``."""
    check_kept(await context.store.agenda.delay(uid, kept.id, kept.encode(), not_before_us), kept, context.limits)
    context.metrics.messages.labels("delayed").inc()
    return kept.receipt(not_before_us)


def named(message: Message, headers: Mapping[bytes, bytes]) -> Message:
    """The message with the id that the header ``Idempotency-Key`` gives it; both, and different: ``invalid``."""
    if b"gregor-durability" in headers:
        raise Problem("invalid", "Gregor-Durability is not supported: this deployment waits for no replica.")
    offered = headers.get(b"idempotency-key")
    if offered is None:
        return message
    key = offered.decode("latin-1").strip()
    if key.startswith('"') and key.endswith('"'):  # a string as structured fields write it (RFC 9651)
        key = key[1:-1]
    if not is_name(key):
        raise Problem("invalid_id", "The header Idempotency-Key is no name: letters, digits and ._:@-, up to 128.")
    if message.id is not None and message.id != key:
        raise Problem("invalid", "The header Idempotency-Key and the field id name different ids; send one.")
    return replace(message, id=key)


def planned(message: Message, actor: Actor, context: IngestContext) -> tuple[Commit, View]:
    """The commit of a message of this actor, and the view that its receipt is told in. ``forbidden``.

    Of a delayed message it is what it would be in its time: whatever is refused then as now is refused now.
    """
    actor.require_scope("admin" if isinstance(message.content, Flush) else "ingest")
    sender, view = actor.sender_and_view(message.device)
    entries = context.registry.current
    now_us = max(context.clock.now_us(), message.not_before_us or 0)
    commit = plan(message, sender, now_us, context.epoch_seed(), context.limits, entries)
    if commit.is_flush:
        commit = replace(commit, spread_s=round(context.settings.flush_spread_s))
    return commit, view
