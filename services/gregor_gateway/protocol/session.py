"""The protocol session of one connection: frames and events in, effects out. Pure: no await, no clock, no I/O.

Laws, tested in tests/unit/gateway/test_session.py and test_session_answers.py:

1. The server does nothing for a client before its ``hello``. A client that sends none is closed after 15 s.
2. Frames committed between the subscription and the sync are held, and sent after the sync, in order.
3. After a sync object, no live frame up to its seq is sent. Each live frame is sent at most once. A sync object begins
   at or after the last live frame before it, even if the client named an earlier position.
4. The receipt of a message follows the frame of its seq, whichever of the two arrives first.
5. A mistake of the client is answered with a ``problem``. Only malformed text, a first frame that is not ``hello``, or
   a second invalid ``hello`` closes the connection.
6. A client is asked for a new token 60 s before the old one expires, and closed 25 s after that.

``now`` is in seconds of a monotonic clock. ``lives_s`` is the time until a token expires.
"""

from __future__ import annotations

from enum import Enum
from typing import Any, Final

from gregor.auth.device_tokens import MAX_TOKEN_BYTES, Caller
from gregor.core.close_codes import CloseCode
from gregor.core.errors import Problem
from gregor.core.ids import Prefixes, intersect
from gregor.core.items.read_cost import sync_weight
from gregor.core.items.sync import NO_EPOCH, Cursor, Delta, Full, SyncResult, Unchanged, View, cursor_for
from gregor.core.messages.encode import with_digest, with_external

from . import effects
from .client_frames import (
    AckFrame,
    ClientFrame,
    ForegroundFrame,
    MessageFrame,
    PingFrame,
    PongFrame,
    Ref,
    ResyncFrame,
    TokenFrame,
    decode_frame,
    leading_ref,
    misplaced,
    read_frame,
    read_loosely,
    read_ref,
)
from .deadlines import NEVER, Deadlines, Ping, Refresh, SessionRules
from .effects import CloseConnection, Effect, ReadSync, Send, SendLive, SendSync
from .hello import VOID_POSITION, Hello, Position
from .server_frames import close_of, encode, problem_frame, refresh_frame, token_frame

FRAME_SLACK_BYTES: Final = 4_096
"""Bytes of a frame beside those of the message in it: names, ``ref``, spaces."""
MAX_HELLO_PARTS: Final = 1_000
"""Commas and opening brackets of a hello. Two filters of 100 prefixes have 205, and a ``ref`` has at most 512.

Without this limit, a client without a token could send 16 KiB of them, which take 8 ms to decode.
"""
REFUSED_TEXT_BYTES_A_UNIT: Final = 1_024
"""Bytes of a refused text for one more unit of the frame budget: 0.1 to 0.3 ms of CPU."""
RESYNC_BYTES: Final = 128 * 1_024
"""Bytes of a requested sync that count as one more resync."""
RESYNC_WEIGHT: Final = 10
"""Weight of a requested sync that counts as one more resync: the joins of a device in a second."""


class SessionState(Enum):
    """The state of a session."""

    GREETING = "waiting for the hello"
    JOINING = "waiting for token, subscription and presence"
    SYNCING = "waiting for a sync; live frames are held"
    LIVE = "live frames are sent"
    BEHIND = "slow consumer: live frames are dropped until it can be synced"
    CLOSED = "closed"


class Session:
    """One session.

    ``seq`` and ``tag``: the cursor after the live frames sent so far. ``synced_seq``: the seq of the last sync.
    ``position``: the position of its copy that the client named for the current sync; ``None``: the cursor.
    ``is_requested``: whether the client caused the current sync: by its hello, a resync, the texts that it wants, or by
    reading too slowly.
    """

    __slots__ = (
        "_deadlines",
        "_has_failed_hello",
        "_has_upgrade_token",
        "_held",
        "_held_bytes",
        "_must_repeat",
        "_next_resync",
        "_pending_ack",
        "_receipts",
        "_rules",
        "_serial",
        "caller",
        "foreground",
        "hello",
        "is_requested",
        "name",
        "observes",
        "position",
        "seq",
        "state",
        "synced_seq",
        "systems",
        "tag",
        "ticket",
        "view",
    )

    def __init__(self, rules: SessionRules, now: float, name: str) -> None:
        """``name``: the name of the session unless the client gives one."""
        self._rules = rules
        self._deadlines = Deadlines(rules, now)
        self.state = SessionState.GREETING
        self.name = name
        self.caller: Caller | None = None
        self.hello: Hello | None = None
        self.observes = self.foreground = False
        self.ticket: str | None = None
        self.view = View()
        self.systems: Prefixes = None
        self.tag = ""
        self.seq = self.synced_seq = 0
        self._serial = 0
        self.position: Position | None = None
        self.is_requested = self._has_upgrade_token = self._must_repeat = self._has_failed_hello = False
        self._held: list[tuple[int, bytes]] | None = None
        self._held_bytes = 0
        self._receipts: list[tuple[int, bytes]] | None = None
        self._pending_ack: int | None = None
        self._next_resync = -NEVER

    # ---- joining: hello, token, subscription, presence

    def greeted(self, hello: Hello) -> list[Effect]:
        """Handle the hello. Its token is used only if none came with the upgrade."""
        if hello.session is not None:
            self.name = hello.session
        self.hello = hello
        self.state = SessionState.JOINING
        self.foreground = hello.foreground
        self._deadlines.greeted()
        if self.caller is not None:
            return self._begin(hello, self.caller)
        if self._has_upgrade_token:
            return []
        return [effects.VerifyToken(hello.token)] if hello.token is not None else self.close(CloseCode.UNAUTHORISED)

    def offered(self, token: str) -> list[Effect]:
        """Handle a token that came with the upgrade. The hello may arrive before it is verified."""
        self._has_upgrade_token = True
        return [effects.VerifyToken(token)]

    def admitted(self, caller: Caller, lives_s: float, now: float, *, observes: bool = False) -> list[Effect]:
        """Handle a verified token; join if the hello has arrived."""
        self.caller = caller
        self.observes = observes
        self._deadlines.expires(lives_s, now)
        return self._begin(self.hello, caller) if self.hello is not None else []

    def _begin(self, hello: Hello, caller: Caller) -> list[Effect]:
        self.view = View(caller.device, intersect(caller.category_filter, hello.prefixes))
        self.systems = intersect(caller.systems, hello.systems)
        self.position = hello.position
        return [effects.JoinChannel()]

    def joined(self, now: float) -> list[Effect]:
        """Handle the confirmed subscription: welcome the client, and read its first sync."""
        if self.state is not SessionState.JOINING:
            return []
        self._deadlines.joined(now)
        out: list[Effect] = [Send(self._welcome(now))] if self._rules.welcomes else []
        self.is_requested, self.position = True, self.position or Position()
        return [*out, self._read()]

    def _welcome(self, now: float) -> bytes:
        left_s = self._deadlines.left_s(now)
        members: dict[str, Any] = {} if left_s is None else {"expires_in": left_s}
        members |= {"ping": round(self._rules.ping_interval_s), "max_frame": self._rules.max_frame_bytes}
        limits = self.caller.category_filter if self.caller is not None else ()
        members |= {"uncounted": self._rules.uncounted(limits), "now": self._rules.now_ms()}
        if self.ticket is not None:
            members["ticket"] = self.ticket
        return encode({"welcome": members})

    def counting_changed(self, now: float) -> list[Effect]:
        """Send a new welcome if the client has joined: other categories count in the badge."""
        has_joined = self.state in (SessionState.SYNCING, SessionState.LIVE, SessionState.BEHIND)
        return [Send(self._welcome(now))] if self._rules.welcomes and has_joined else []

    @property
    def locale(self) -> str | None:
        """The locale for rendered texts; ``None`` if the client wants none."""
        return self.hello.render if self.hello is not None else None

    # ---- frames of the client

    def receive(self, raw: bytes, now: float, owed_s: float = 0.0) -> list[Effect]:
        """Handle one text message. ``owed_s``: seconds until the device may use more CPU time for syncs."""
        if self.state is SessionState.CLOSED:
            return []
        # Such a frame can only be refused, in its order and at the cost of a message: it need not be decoded.
        if len(raw) > self._rules.limits.message_bytes + FRAME_SLACK_BYTES:
            is_greeting = self.state is SessionState.GREETING
            return (
                self.close(CloseCode.MESSAGE_TOO_BIG)
                if is_greeting
                else [effects.CommitMessage(leading_ref(raw), b"", len(raw))]
            )
        if self.state is SessionState.GREETING and sum(map(raw.count, b",[{")) > MAX_HELLO_PARTS:
            detail = f"A hello has at most {MAX_HELLO_PARTS} commas and opening brackets."
            return self._refuse_hello(None, Problem("too_many", detail))
        try:
            document = decode_frame(raw, self._rules.limits)
        except Problem as problem:
            return self._refuse_text(raw, problem)
        if self.state is SessionState.GREETING and not (isinstance(document, dict) and "hello" in document):
            return self.close(CloseCode.BAD_PROTOCOL)
        return self.receive_document(document, now, raw, owed_s)

    def _refuse_text(self, raw: bytes, problem: Problem) -> list[Effect]:
        """Close after text that is not UTF-8 or not JSON; answer other JSON (a repeated key) with a problem."""
        try:
            raw.decode()
        except UnicodeDecodeError:
            return self.close(CloseCode.INVALID_UTF8, "invalid UTF-8")  # RFC 6455, 8.1
        if self.state is SessionState.GREETING:
            return self.close(CloseCode.BAD_PROTOCOL)
        is_json, ref = read_loosely(raw)
        if not is_json:
            return self.close(CloseCode.BAD_PROTOCOL)
        # The text was decoded three times, once of them by the slow exact decoder: a short one costs 2.5 pings.
        return [effects.ChargeBudget(1 + len(raw) // REFUSED_TEXT_BYTES_A_UNIT), *self.refused(ref, problem)]

    def receive_document(self, document: Any, now: float, raw: bytes = b"", owed_s: float = 0.0) -> list[Effect]:
        """Handle one parsed frame, from the connection or from ``POST /v1/frames``.

        ``raw``: the text of a frame from the connection. A posted frame needs none, because ``POST /v1/frames`` commits
        messages itself. ``owed_s``: see ``receive``.
        """
        ref: Ref = None
        try:
            ref = read_ref(document)
            return self._handle(ref, read_frame(document), now, raw, owed_s)
        except Problem as problem:
            return (
                self._refuse_hello(ref, problem) if self.state is SessionState.GREETING else self.refused(ref, problem)
            ) + ([effects.LimitReached("resync")] if problem.code == "rate_limited" else [])

    def _refuse_hello(self, ref: Ref, problem: Problem) -> list[Effect]:
        """Answer the first invalid hello with a problem. Close after the second one: no token was verified yet."""
        answer, is_second = self.refused(ref, problem), self._has_failed_hello
        self._has_failed_hello = True
        return [*answer, *self.close(CloseCode.BAD_PROTOCOL)] if is_second else answer

    def _handle(self, ref: Ref, frame: ClientFrame, now: float, raw: bytes, owed_s: float) -> list[Effect]:
        match frame:
            case MessageFrame():
                return [effects.CommitMessage(ref, raw, len(raw))]
            case Hello() if self.state is SessionState.GREETING:
                return self.greeted(frame)
            case Hello():
                raise misplaced("hello")
            case AckFrame(seq):
                return self._acknowledge(seq)
            case ForegroundFrame(value):
                self.foreground = value
                return [] if self.observes else [effects.ReportForeground(value)]
            case ResyncFrame(position):
                return self._resync(position, now, owed_s)
            case TokenFrame(token):
                # A longer token is refused later in any case: its rest must not take memory while it waits.
                return [effects.VerifyToken(token[: MAX_TOKEN_BYTES + 1], ref, is_renewal=True)]
            case PingFrame(n):
                return [Send(b'{"pong":%d}' % n)]
            case PongFrame():
                self._deadlines.answered()
        return []

    def _acknowledge(self, seq: int) -> list[Effect]:
        if self.observes:
            return []
        if self.state is SessionState.LIVE or self.state is SessionState.BEHIND:
            return [effects.Acknowledge(seq)]
        self._pending_ack = max(seq, self._pending_ack or 0)
        return []

    def _resync(self, position: Position, now: float, owed_s: float) -> list[Effect]:
        # Each resync is a read of the store, which a client could otherwise repeat without end (rate limit). Each
        # connection has its own interval, but those of a device share its CPU time.
        wait_s = max(self._next_resync - now, owed_s)
        if wait_s > 0:
            detail = "At most one resync a second; a large copy counts as several."
            raise Problem("rate_limited", detail, retry_after_s=wait_s)
        self._next_resync = now + 1 / self._rules.limits.resync_rate
        return [effects.ResyncRequested(), *self._resync_on_request(position)]

    # ---- sync and live frames

    def _resync_on_request(self, position: Position) -> list[Effect]:
        """Sync because the client asks: answer even if nothing changed.

        While the connection is joining, the position replaces the one of the hello.
        """
        self.is_requested = True
        if self.state is SessionState.JOINING:
            self.position = position
        return self.resync(position)

    def resync(self, position: Position | None = None, reached: int = 0, *, is_requested: bool = False) -> list[Effect]:
        """Sync from a position, now or after the read in flight.

        ``None``: from the last frame sent. ``reached``: the seq up to which the client has every frame of its view.
        """
        self.is_requested = self.is_requested or is_requested
        if self.state is SessionState.LIVE:
            self.seq = max(self.seq, reached)
            self.position = position
            return [self._read()]
        if self.state is SessionState.SYNCING or self.state is SessionState.BEHIND:
            self.position = self._next_position(position)
            self._must_repeat = True
        return []

    def _next_position(self, wanted: Position | None) -> Position | None:
        """Return the position of the read that replaces the one in flight."""
        old = self.position
        # A copy without a cursor lacks the external messages of a read from a cursor, so it must say external_gap.
        if _has_no_cursor(wanted):
            return wanted if _has_no_cursor(old) else VOID_POSITION
        # After a fork, no cursor can be trusted.
        if old == VOID_POSITION or (wanted is None and self.lacks_external):
            return VOID_POSITION
        return wanted or old

    def _read(self) -> ReadSync:
        self.state = SessionState.SYNCING
        self._must_repeat = False
        # A copy that is read without a cursor has no external messages: `synced` adds those of the meantime.
        self._held = [each for each in self._held or () if _is_external(each[1])] if self.lacks_external else []
        self._held_bytes = sum(len(frame) for _, frame in self._held)
        self._serial += 1
        position = self.position or Position(Cursor(self.tag, self.seq))
        if self._is_overtaken:
            # The named digest is that of an earlier copy, so the answer has the digest of the view instead. With a
            # category filter, the store computes it only to compare: if it differs, the answer is a full copy.
            digest = None if self.view.category_filter is None else position.digest
            position = Position(Cursor(self.tag, self.seq), digest)
        return ReadSync(position, self._serial)

    @property
    def _is_overtaken(self) -> bool:
        """Whether live frames were sent after the cursor that the client named. It processes them before the answer."""
        cursor = self.position.cursor if self.position is not None else None
        return cursor is not None and cursor.tag == self.tag and cursor.seq < self.seq

    @property
    def lacks_external(self) -> bool:
        """Whether a session that was live reads a full copy without a cursor, after a reset or on request."""
        return bool(self.tag) and _has_no_cursor(self.position)

    def fall_behind(self) -> None:
        """Stop live frames: the send queue of a slow consumer overflowed, and dropped its live frames and syncs."""
        if self.state is SessionState.LIVE:
            self.position = None
        if self.state is SessionState.LIVE or self.state is SessionState.SYNCING:
            self.state = SessionState.BEHIND
            self.is_requested = True
            self._held = None

    def catch_up(self, tag: str, seq: int) -> list[Effect]:
        """Read one sync in place of the dropped frames, once the client has read up to this cursor."""
        if self.state is not SessionState.BEHIND:
            return []
        self.tag, self.seq = tag, seq
        if self.lacks_external:
            self.position = VOID_POSITION  # live frames were dropped
        return [self._read()]

    def retry(self, serial: int) -> list[Effect]:
        """Read again after the read of this serial failed, if its result is still needed."""
        return [self._read()] if self.state is SessionState.SYNCING and serial == self._serial else []

    def synced(self, serial: int, result: SyncResult, frame: bytes) -> list[Effect]:
        """Handle the result of the read with this serial; ``frame`` is its encoded sync object."""
        if self.state is not SessionState.SYNCING or serial != self._serial:
            return []
        # Held frames of a new user carry its first cursor, so a read that knows the epoch must come first.
        if self._must_repeat or (self._held and result.epoch == NO_EPOCH):
            return [self._read()]
        # The frame that a receipt waits for was lost, and the view is unchanged: the sync must show its seq.
        owes_seq = any(self.seq < seq <= result.seq for seq, _ in self._receipts or ())
        held, self._held = self._held or (), None
        if self.lacks_external:
            missed = [live for seq, live in held if seq <= result.seq and _is_external(live)]
            frame = with_external(frame, missed)
        # The client may have processed frames after it named its digest, so it must compare the digest again.
        is_unproven = isinstance(result, Unchanged) and (self.lacks_external or self._is_overtaken)
        if is_unproven and result.digest:
            frame = with_digest(frame, result.digest)
        self.state = SessionState.LIVE
        self.tag = cursor_for(result.epoch, self.view, 0).tag
        self.seq = self.synced_seq = result.seq
        is_change = not isinstance(result, Unchanged) or is_unproven or bool(result.external) or result.external_gap
        is_sent = is_change or ((self.is_requested or owes_seq) and self._rules.sends_unchanged)
        position = self.tag, result.seq
        out: list[Effect] = [SendSync(*position, frame) if is_sent else effects.ConfirmCursor(*position)]
        if self.is_requested:
            # The client can ask for this copy again: reading, rendering and sending 1 MiB takes a second.
            more = max(len(frame) // RESYNC_BYTES, self.weight_of(result, len(frame)) // RESYNC_WEIGHT)
            self._next_resync += more / self._rules.limits.resync_rate
        self.is_requested = False
        out += [SendLive(seq, live) for seq, live in held if self.deliver(seq, live)]
        if self._pending_ack is not None:
            out.append(effects.Acknowledge(self._pending_ack))
            self._pending_ack = None
        return out

    def deliver(self, seq: int, frame: bytes) -> bool:
        """Return whether to send a live frame of the view now. A frame that comes during a read is held."""
        if self.state is SessionState.LIVE:
            return self.deliver_run(seq, seq)
        if self._held is not None:
            self._held.append((seq, frame))
            self._held_bytes += len(frame)
            if self._held_bytes > self._rules.queue_bytes:
                # Beyond the bound the held frames are dropped, and the read is repeated.
                self._held, self._held_bytes, self._must_repeat = [], 0, True
                if self.lacks_external:
                    self.position = VOID_POSITION
        return False

    def deliver_run(self, first: int, last: int) -> bool:
        """Return whether to send all live frames from ``first`` to ``last`` now. Hot path.

        Otherwise the caller passes each of them to ``deliver``.
        """
        if self.state is not SessionState.LIVE or first <= self.seq:
            return False
        self.seq = last
        return True

    def weight_of(self, result: SyncResult, size_bytes: int) -> int:
        """Return the weight of a sync object of this session, beyond 1."""
        items = result.items if isinstance(result, Full) else result.create if isinstance(result, Delta) else ()
        return sync_weight(len(items), size_bytes, is_rendered=self.locale is not None)

    # ---- receipts

    def committed(self, seq: int, frame: bytes, reached: int) -> list[Effect]:
        """Handle a committed message: its receipt waits for its seq.

        ``reached``: the seq that the channel has processed.
        """
        self._receipts = [*(self._receipts or ()), (seq, frame)]
        return self.release_receipts(reached)

    def release_receipts(self, reached: int) -> list[Effect]:
        """Send the receipts up to the seq that the channel has processed."""
        if self._receipts is None or self.state is not SessionState.LIVE:
            return []
        reached = max(reached, self.seq)
        out: list[Effect] = [Send(frame) for seq, frame in self._receipts if seq <= reached]
        self._receipts = [receipt for receipt in self._receipts if receipt[0] > reached] or None
        return out

    @property
    def has_waiting_receipts(self) -> bool:
        """Whether receipts wait for their seq."""
        return self._receipts is not None

    def refused(self, ref: Ref, problem: Problem) -> list[Effect]:
        """Answer a refused message or token."""
        return [Send(problem_frame(ref, problem))]

    # ---- deadlines and tokens

    def renewed(self, caller: Caller, lives_s: float, now: float) -> list[Effect]:
        """Handle a verified new token; it must name the same user, device and categories."""
        old = self.caller
        # The view of the connection depends on these: another view needs another hello.
        if old is None or (caller.uid, caller.device, caller.category_filter) != (
            old.uid,
            old.device,
            old.category_filter,
        ):
            return self.close(CloseCode.STATE_INVALIDATED)
        self.caller = caller
        self._deadlines.expires(lives_s, now)
        self._deadlines.joined(now)
        out: list[Effect] = [Send(token_frame(self._deadlines.left_s(now) or 0))]
        if caller.systems != old.systems:
            self.systems = intersect(caller.systems, self.hello.systems if self.hello else None)
            out.append(effects.Regroup())
        return out

    @property
    def due(self) -> float:
        """The time of the next deadline."""
        return NEVER if self.state is SessionState.CLOSED else self._deadlines.due

    def tick(self, now: float) -> list[Effect]:
        """Handle all deadlines that have passed."""
        if self.state is SessionState.CLOSED:
            return []
        out: list[Effect] = []
        for said in self._deadlines.tick(now):
            match said:
                case Ping(n):
                    out.append(Send(b'{"ping":%d}' % n))
                case Refresh():
                    out.append(Send(refresh_frame(self._deadlines.left_s(now) or 0)))
                case over:
                    return self.close(over.code)
        return out

    def close(self, code: int, reason: str = "") -> list[Effect]:
        """Close the session. Idempotent."""
        if self.state is SessionState.CLOSED:
            return []
        self.state = SessionState.CLOSED
        self._held = self._receipts = None
        return [CloseConnection(code, reason or close_of(code))]


def _has_no_cursor(position: Position | None) -> bool:
    return position is not None and position.cursor is None


def _is_external(frame: bytes) -> bool:
    """Return whether a live frame is an external message."""
    return not frame.startswith(b'{"system":"gregor"')
