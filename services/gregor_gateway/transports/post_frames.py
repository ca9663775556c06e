"""Posted frames, ``POST /v1/frames?session=``: what a client of a stream or poll sends.

Messages are committed here. Other frames go to the connection that holds the session; if another gateway has it, they
travel on the user's channel. Acknowledgements and presence are stored here at once if this gateway does not have the
connection, because between two long polls no gateway has it.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any, Final

import msgspec
from starlette.requests import Request
from starlette.types import Receive, Scope, Send

from gregor.auth.device_tokens import Caller
from gregor.clock import monotonic_us
from gregor.cooperative import KeyedSemaphore
from gregor.core.errors import Problem
from gregor.core.ids import Prefixes, intersect, is_name, name_error
from gregor.core.items.sync import View
from gregor.core.json_text import decode_json, split_array
from gregor.core.messages.cost import text_weight
from gregor.core.rate_limit import REQUEST_NS, ExcessCost, rate_limited, request_buckets, until_repeat
from gregor.cpu_meter import CpuMeter
from gregor.store.contract.devices import DeviceSession
from gregor.store.contract.store import Unavailable
from gregor.web.http_admission import CALLER
from gregor.web.rate_limit_fields import note_limit
from gregor.web.request import JSON, media_type, read_body
from gregor_gateway.fanout.subscriber import Subscriber
from gregor_gateway.protocol.client_frames import (
    AckFrame,
    ForegroundFrame,
    MessageFrame,
    Ref,
    ResyncFrame,
    TokenFrame,
    leading_ref,
    misplaced,
    read_frame,
    read_loosely,
    read_ref,
    split_loosely,
)
from gregor_gateway.protocol.server_frames import encode, problem_frame, problem_of, receipt_frame

from .http_connections import StreamConnections, send_json
from .stream_auth import RequestToken, authenticate_token, bearer

MAX_BYTES: Final = 1 << 20
MAX_FRAMES: Final = 1_000
ENVELOPE_BYTES: Final = 4_096
"""Bytes of a frame beside its message: `ref`, and white space."""
PAUSE_BYTES: Final = 65_536
"""Bytes of frames that are decoded between two pauses, in up to 25 ms. A longer frame is decoded without a pause."""
PAUSE_S: Final = 0.005
"""Length of a pause: a message of another user needs several iterations of the event loop."""
FRAMES_A_UNIT: Final = 5
"""Frames that count as one more request: an acknowledgement costs two commands of Redis."""
MAX_CONCURRENT: Final = 8
"""Requests of one device that are read and served at once. Others wait unread: a body takes up to ``MAX_BYTES``."""
PATIENCE_S: Final = 0.5
"""How long a response waits until a charge for CPU time is stored; a server that hangs answers later."""
_TAKEN: Final = "gregor.taken"
"""The member of an ASGI scope with the units that its request took."""


@dataclass(frozen=True, slots=True)
class FrameTarget:
    """The sender of posted frames and its session; ``subscriber`` is the connection if this gateway has it."""

    caller: Caller
    token: RequestToken
    session: DeviceSession
    subscriber: Subscriber | None

    @property
    def category_filter(self) -> Prefixes:
        """What both the session and the token of the request may see."""
        return intersect(self.session.category_filter, self.caller.category_filter)

    @property
    def is_narrower(self) -> bool:
        """Whether the token of the request may see less than the session: then it acknowledges less, too."""
        return self.category_filter != self.session.category_filter


@dataclass(frozen=True, slots=True)
class RefusedFrame:
    """A frame that breaks a rule or is too long. The other frames of the request are handled."""

    ref: Ref
    problem: Problem


@dataclass(frozen=True, slots=True)
class DeferredEffects:
    """The effects of a request that follow its frames.

    ``forwarded``: frames for another gateway. ``acks``: the acknowledgements to store here; only the highest is stored.
    ``foregrounds``: the presence to store here; only the last value is stored.
    """

    forwarded: list[Any] = field(default_factory=list)
    acks: list[tuple[Ref, int]] = field(default_factory=list)
    foregrounds: list[tuple[Ref, bool]] = field(default_factory=list)


class FramesEndpoint:
    """The endpoint, as an ASGI application."""

    def __init__(self, streams: StreamConnections) -> None:
        self._context = streams.context
        self._concurrent = KeyedSemaphore(MAX_CONCURRENT)
        self._excess = ExcessCost(random.random)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Respond with the receipts and problems of the frames."""
        scope["gregor.operation"] = "postFrames"
        request = Request(scope, receive)
        context = self._context
        token = RequestToken(bearer(request), context)
        caller = await token.authenticate()
        scope[CALLER] = "user", caller.uid
        await self._charge(caller, scope, 1)
        name = request.query_params.get("session")
        if name is None:
            raise Problem("missing_field", "The query parameter session is missing: ?session=<name>.")
        if not is_name(name):
            raise Problem("invalid_id", f"The query parameter session is not a valid name. {name_error(name)}")
        headers: Mapping[bytes, bytes] = scope["gregor.headers"]
        media_type(headers, JSON)
        async with self._concurrent.of(f"{caller.uid}/{caller.device}"):
            raw = await read_body(headers, receive, MAX_BYTES, _too_large)
            # The token may have been revoked while the body arrived.
            await token.confirm()
            meter = CpuMeter(self._context.clock.cpu_ns)
            try:
                answers = await meter.run(self._answers(caller, token, scope, name, raw))
            finally:
                await self._charge_excess(caller, scope, meter.used_ns)
        await send_json(send, 200, b"[%s]" % b",".join(answers))

    async def _answers(self, caller: Caller, token: RequestToken, scope: Scope, name: str, raw: bytes) -> list[bytes]:
        """Handle the frames of a body; return their answers. Raises ``Problem`` or ``Unavailable``."""
        # Before it is split and decoded: a refused text costs as much as a valid one.
        weight = text_weight(len(raw))
        await self._charge(caller, scope, weight - 1)
        texts = _split(raw)
        await self._charge(caller, scope, len(texts) // FRAMES_A_UNIT - (weight - 1))
        frames = await self._decode(texts)
        target = await self._target(caller, token, name)
        answers: list[bytes] = []
        effects = DeferredEffects()
        for frame in frames:
            answer = await self._handle(target, frame, effects)
            if answer is not None:
                answers.append(answer)
        refusals = (await self._report_foreground(target, effects), await self._acknowledge(target, effects))
        answers += (refusal for refusal in refusals if refusal is not None)
        if effects.forwarded:
            control = {"session": name, "device": caller.device, "frames": effects.forwarded}
            posted = control | {"issued_us": caller.iat_us}
            await self._context.store.devices.publish_control(caller.uid, {"frames": posted})
        return answers

    async def _decode(self, texts: Sequence[bytes]) -> list[Any]:
        """Return the frames of these texts, and a ``RefusedFrame`` in place of one that breaks a rule of Gregor.

        Raises ``Problem`` if a text is not JSON by RFC 8259: then no frame of the request is handled.
        """
        limits, frames, size = self._context.limits, list[Any](), 0
        for text in texts:
            if len(text) > limits.message_bytes + ENVELOPE_BYTES:
                detail = f"The limit of one message is {limits.message_bytes} bytes."
                frames.append(RefusedFrame(leading_ref(text), Problem("message_too_large", detail)))
                continue
            size += len(text)
            if size >= PAUSE_BYTES:
                size = 0
                await asyncio.sleep(PAUSE_S)
            try:
                frames.append(decode_json(text, limits))
            except Problem as problem:
                is_json, ref = read_loosely(text)
                if not is_json:
                    raise
                frames.append(RefusedFrame(ref, problem))
        return frames

    async def _charge(self, caller: Caller, scope: Scope, weight: int) -> None:
        """Charge the request to the device and its user, in the buckets that ingest also uses. Raises ``rate_limited``.

        A request that weighs more than a full bucket takes a full bucket.
        """
        context, taken = self._context, scope.get(_TAKEN, 0)
        buckets = request_buckets(caller.uid, caller.device, context.limits)
        count = min(weight, *(bucket.burst - taken for bucket in buckets))
        if count <= 0:
            return
        now_us = context.clock.now_us()
        left = until_repeat(await context.store.access.take_all(caller.uid, buckets, count, now_us), buckets, taken)
        note_limit(scope, "requests", buckets, left)
        if left.wait_s > 0:
            context.metrics.limits_reached.labels("requests").inc()
            raise rate_limited("requests", left.wait_s)
        scope[_TAKEN] = taken + count

    async def _charge_excess(self, caller: Caller, scope: Scope, cpu_ns: int) -> None:
        """Charge the CPU time of a request beyond its weight, as ingest does (decision 0022)."""
        context = self._context
        buckets = request_buckets(caller.uid, caller.device, context.limits)
        weight = self._excess.weight(
            buckets[0].name, cpu_ns, REQUEST_NS, scope.get(_TAKEN, 0), monotonic_us(context.clock)
        )
        if weight:
            context.metrics.charged_afterwards.labels("requests").inc(weight)
            # A failure to store the charge must not fail a request that is done.
            with suppress(TimeoutError, Unavailable):
                async with asyncio.timeout(PATIENCE_S):
                    left = await context.store.access.charge_all(caller.uid, buckets, weight, context.clock.now_us())
                note_limit(scope, "requests", buckets, left)

    async def _target(self, caller: Caller, token: RequestToken, name: str) -> FrameTarget:
        context = self._context
        channel = context.hub.channels.get(caller.uid)
        for subscriber in channel.subscribers if channel is not None else ():
            if (subscriber.device, subscriber.session_name) == (caller.device, name) and not subscriber.observes:
                return FrameTarget(caller, token, subscriber.lease(context.presence.gateway), subscriber)
        held = await context.store.devices.session(caller.uid, caller.device, name, context.clock.now_us())
        if held is None:
            raise Problem("not_found", "This device has no session of that name.")
        return FrameTarget(caller, token, held, None)

    async def _handle(self, target: FrameTarget, document: Any, effects: DeferredEffects) -> bytes | None:
        """Handle one frame; return its answer, if any. What follows all frames is added to ``effects``."""
        if isinstance(document, RefusedFrame):
            return problem_frame(document.ref, document.problem)
        ref: Ref = None
        try:
            ref = read_ref(document)
            # The token may have been revoked, or the user deleted, while earlier frames were handled.
            await target.token.confirm()
            return await self._dispatch(target, ref, document, effects)
        except (Problem, Unavailable) as error:
            return problem_frame(ref, problem_of(error))

    async def _dispatch(self, target: FrameTarget, ref: Ref, document: Any, effects: DeferredEffects) -> bytes | None:
        context, caller = self._context, target.caller
        match read_frame(document):
            case MessageFrame(message):
                done = await context.device_messages.commit(caller, lambda: message, len(encode(message)))
                return receipt_frame(ref, done.receipt)
            case AckFrame(seq) if target.subscriber is None or target.is_narrower:
                effects.acks.append((ref, seq))
                return None
            case ForegroundFrame() if target.is_narrower:
                # Otherwise it could suppress pushes of categories that it cannot read.
                raise Problem("forbidden", "The token of this request may see less than the session.")
            case ForegroundFrame(value) if target.subscriber is None:
                effects.foregrounds.append((ref, value))
            # Verified here, so that the answer is exact; the connection then verifies it again.
            case TokenFrame(token):
                await authenticate_token(token, context)
            case AckFrame() | ForegroundFrame() | ResyncFrame():
                pass
            case _:
                raise misplaced(next(name for name in document if name != "ref"))
        if target.subscriber is None:
            effects.forwarded.append(document)
            return None
        return target.subscriber.post(document, caller.iat_us)

    async def _report_foreground(self, target: FrameTarget, effects: DeferredEffects) -> bytes | None:
        """Store the last presence of a session that this gateway does not have. Returns a problem if that fails."""
        if not effects.foregrounds:
            return None
        ref, value = effects.foregrounds[-1]
        try:
            await target.token.confirm()
            # If the token of the request is revoked, the foreground that it set must end, too.
            issued_us = min(target.session.issued_us, target.caller.iat_us) if value else target.session.issued_us
            changed = replace(target.session, foreground=value, issued_us=issued_us)
            await self._context.presence.renew_elsewhere(target.caller, changed)
        except (Problem, Unavailable) as error:
            return problem_frame(ref, problem_of(error))
        return None

    async def _acknowledge(self, target: FrameTarget, effects: DeferredEffects) -> bytes | None:
        """Store the highest acknowledgement, at most up to the user's seq. Returns a problem if that fails."""
        if not effects.acks:
            return None
        caller, acks = target.caller, effects.acks
        seq = max(seq for _, seq in acks)
        try:
            await target.token.confirm()
            (head,) = await self._context.store.users.heads([caller.uid])
            if head is not None:
                view = View(caller.device, target.category_filter)
                now_us = self._context.clock.now_us()
                await self._context.store.devices.acknowledge(caller.uid, view, min(seq, head.seq), now_us)
        except (Problem, Unavailable) as error:
            return problem_frame(acks[-1][0], problem_of(error))
        return None


def _split(raw: bytes) -> list[bytes]:
    """Return the texts of the frames, not decoded. Raises ``too_many`` at the first frame above the limit."""
    if not raw.lstrip(b" \t\n\r").startswith(b"["):
        return [raw]
    texts: list[bytes] | None
    try:
        texts = split_array(raw, MAX_FRAMES)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        try:
            texts = list(islice(split_loosely(raw), MAX_FRAMES + 1))
        except (ValueError, RecursionError):
            raise Problem("malformed_json", f"The body is not a valid JSON array of frames: {error}.") from None
    if texts is None or len(texts) > MAX_FRAMES:
        raise Problem("too_many", f"Too many frames; the limit of one request is {MAX_FRAMES}.")
    return texts


def _too_large() -> Problem:
    return Problem("message_too_large", f"The limit of one request is {MAX_BYTES} bytes.")
