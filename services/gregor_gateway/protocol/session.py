"""PURE: the life of one connection. Frames and events in, effects out; no await, no clock, no I/O.

Laws held here, each by a test of its name in tests/unit/gateway/test_session.py (protocol.md, "Gateway"):

1. Nothing is done for a client before its `hello`, and one that is silent for 15 s is closed.
2. What is committed between the subscription and the sync is held, and goes out after the sync, in order.
3. A live frame up to the seq of a sync object is never sent after it; each live frame goes out at most once.
4. The receipt of a message comes after the frame of its seq, whichever of the two arrives first.
5. What a client does wrong is answered by a `problem`; only no JSON, and no `hello` first, end the connection.
6. A token that ends is asked for anew 60 s before, and tolerated 25 s after.

Every ``now`` is in seconds of a monotonic clock; ``lives_s`` is how long a token is still good.
"""

from __future__ import annotations

from enum import Enum
from typing import Any

from gregor.auth.device_tokens import Caller
from gregor.core.close_codes import CloseCode
from gregor.core.errors import Problem
from gregor.core.ids import Prefixes, intersect
from gregor.core.items.sync import NO_EPOCH, Cursor, SyncResult, Unchanged, View, cursor_for
from gregor.core.json_text import decode_json

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
    not_here,
    read_frame,
    read_loosely,
    read_ref,
)
from .deadlines import NEVER, Deadlines, Ping, Refresh, SessionRules
from .effects import CloseConnection, Effect, ReadSync, Send, SendLive, SendSync
from .hello import Hello, Position
from .server_frames import close_of, encode, problem_frame, refresh_frame, token_frame


class SessionState(Enum):
    """Where a connection is in its life."""

    GREETING = "waits for hello"
    JOINING = "waits for token, subscription and presence"
    SYNCING = "waits for a sync; live frames are held"
    LIVE = "live frames go out"
    BEHIND = "too slow: waits until it may be synced; live frames are dropped"
    CLOSED = "over"


class Session:
    """One connection. ``seq`` is the position up to which frames were sent; ``tag`` the cursor's other half."""

    __slots__ = (
        "_again",
        "_deadlines",
        "_held",
        "_held_bytes",
        "_is_asked",
        "_is_offered",
        "_last_resync",
        "_position",
        "_receipts",
        "_rules",
        "_seen",
        "_serial",
        "base",
        "caller",
        "foreground",
        "hello",
        "name",
        "observes",
        "seq",
        "state",
        "systems",
        "tag",
        "ticket",
        "view",
    )

    def __init__(self, rules: SessionRules, now: float, name: str) -> None:
        """``name``: what the session is called where the client does not say."""
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
        self.seq = self.base = 0
        self._serial = 0
        self._position: Position | None = None
        self._is_asked = self._is_offered = self._again = False
        self._held: list[tuple[int, bytes]] | None = None
        self._held_bytes = 0
        self._receipts: list[tuple[int, bytes]] | None = None
        self._seen: int | None = None
        self._last_resync = -NEVER

    # ---- the way in: hello, token, presence, subscription

    def greeted(self, hello: Hello) -> list[Effect]:
        """The client said what it wants. Its token counts where none came with the upgrade."""
        if hello.session is not None:
            self.name = hello.session
        self.hello = hello
        self.state = SessionState.JOINING
        self.foreground = hello.foreground
        self._deadlines.greeted()
        if self.caller is not None:
            return self._begin(hello, self.caller)
        if self._is_offered:
            return []
        return [effects.VerifyToken(hello.token)] if hello.token is not None else self.close(CloseCode.UNAUTHORISED)

    def offered(self, token: str) -> list[Effect]:
        """A token came with the upgrade. The hello may come before it is known to be good."""
        self._is_offered = True
        return [effects.VerifyToken(token)]

    def admitted(self, caller: Caller, lives_s: float, now: float, *, observes: bool = False) -> list[Effect]:
        """The token is good. Goes on where the client said hello already."""
        self.caller = caller
        self.observes = observes
        self._deadlines.expires(lives_s, now)
        return self._begin(self.hello, caller) if self.hello is not None else []

    def _begin(self, hello: Hello, caller: Caller) -> list[Effect]:
        self.view = View(caller.device, intersect(caller.category_filter, hello.prefixes))
        self.systems = intersect(caller.systems, hello.systems)
        self._position = hello.position
        return [effects.JoinChannel()]

    def joined(self, now: float) -> list[Effect]:
        """The user's channel is heard: welcome the client, and read."""
        if self.state is not SessionState.JOINING:
            return []
        self._deadlines.joined(now)
        out: list[Effect] = [Send(self._welcome(now))] if self._rules.welcomes else []
        self._is_asked, self._position = True, self._position or Position()
        return [*out, self._read()]

    def _welcome(self, now: float) -> bytes:
        left_s = self._deadlines.left_s(now)
        members: dict[str, Any] = {} if left_s is None else {"expires_in": left_s}
        members |= {"ping": round(self._rules.ping_interval_s), "max_frame": self._rules.max_frame_bytes}
        members["uncounted"] = self._rules.uncounted()
        if self.ticket is not None:
            members["ticket"] = self.ticket
        return encode({"welcome": members})

    def counting_changed(self, now: float) -> list[Effect]:
        """Other items count in the badge now: who was welcomed is welcomed anew."""
        has_joined = self.state in (SessionState.SYNCING, SessionState.LIVE, SessionState.BEHIND)
        return [Send(self._welcome(now))] if self._rules.welcomes and has_joined else []

    @property
    def locale(self) -> str | None:
        """The language that the client wants words in; ``None``: it wants none."""
        return self.hello.render if self.hello is not None else None

    # ---- what the client sends

    def receive(self, raw: bytes, now: float) -> list[Effect]:
        """One text frame."""
        if self.state is SessionState.CLOSED:
            return []
        try:
            document = decode_json(raw, self._rules.limits)
        except Problem as problem:
            return self._refuse_text(raw, problem)
        if self.state is SessionState.GREETING and not (isinstance(document, dict) and "hello" in document):
            return self.close(CloseCode.BAD_PROTOCOL)
        return self.receive_document(document, now, len(raw))

    def _refuse_text(self, raw: bytes, problem: Problem) -> list[Effect]:
        """Close after text that is not UTF-8 or not JSON; answer other JSON (a repeated key) with a problem."""
        try:
            raw.decode()
        except UnicodeDecodeError:
            return self.close(CloseCode.INVALID_UTF8, "invalid UTF-8")  # RFC 6455, 8.1
        is_json, ref = read_loosely(raw)
        if self.state is SessionState.GREETING or not is_json:
            return self.close(CloseCode.BAD_PROTOCOL)
        return self.refused(ref, problem)

    def receive_document(self, document: Any, now: float, size_bytes: int = 0) -> list[Effect]:
        """One frame that was read already, of so many bytes of JSON (also one of `POST /v1/frames`)."""
        ref: Ref = None
        try:
            ref = read_ref(document)
            return self._take(ref, read_frame(document), now, size_bytes)
        except Problem as problem:
            return self.refused(ref, problem)

    def _take(self, ref: Ref, frame: ClientFrame, now: float, size_bytes: int) -> list[Effect]:
        match frame:
            case MessageFrame(document):
                return [effects.CommitMessage(ref, document, size_bytes)]
            case Hello() if self.state is SessionState.GREETING:
                return self.greeted(frame)
            case Hello():
                raise not_here("hello")
            case AckFrame(seq):
                return self._acknowledge(seq)
            case ForegroundFrame(value):
                self.foreground = value
                return [] if self.observes else [effects.ReportForeground(value)]
            case ResyncFrame(position):
                return self._resync(position, now)
            case TokenFrame(token):
                return [effects.VerifyToken(token, ref, is_renewal=True)]
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
        self._seen = max(seq, self._seen or 0)
        return []

    def _resync(self, position: Position, now: float) -> list[Effect]:
        wait_s = self._last_resync + 1 / self._rules.limits.resync_rate - now
        if wait_s > 0:
            raise Problem("rate_limited", "A resync once a second is enough.", retry_after_s=wait_s)
        self._last_resync = now
        return self._ask(position)

    # ---- sync and live frames

    def _ask(self, position: Position) -> list[Effect]:
        """The client wants to know: it is told even that nothing changed. One that joins yet, once it has joined."""
        self._is_asked = True
        if self.state is SessionState.JOINING:
            self._position = position
        return self.resync(position)

    def resync(self, position: Position | None = None, reached: int = 0) -> list[Effect]:
        """Sync from a position, now or after the read that is under way.

        ``None``: from what was sent. ``reached``: the seq up to which the client has all that concerns its view.
        """
        if self.state is SessionState.LIVE:
            self.seq = max(self.seq, reached)
            self._position = position
            return [self._read()]
        if self.state is SessionState.SYNCING or self.state is SessionState.BEHIND:
            self._position = position or self._position
            self._again = True
        return []

    def _read(self) -> ReadSync:
        self.state = SessionState.SYNCING
        self._again = False
        self._held, self._held_bytes = [], 0
        self._serial += 1
        return ReadSync(self._position or Position(Cursor(self.tag, self.seq)), self._serial)

    def fall_behind(self) -> None:
        """The queue overflowed: its live frames and syncs were dropped, and the next ones are not wanted."""
        if self.state is SessionState.LIVE:
            self._position = None
        if self.state is SessionState.LIVE or self.state is SessionState.SYNCING:
            self.state = SessionState.BEHIND
            self._is_asked = True
            self._held = None

    def catch_up(self, tag: str, seq: int) -> list[Effect]:
        """The client took what was under way, up to this cursor: one sync instead of what was dropped."""
        if self.state is not SessionState.BEHIND:
            return []
        self.tag, self.seq = tag, seq
        return [self._read()]

    def retry(self, serial: int) -> list[Effect]:
        """The read of this serial failed: read again, if it is still wanted."""
        return [self._read()] if self.state is SessionState.SYNCING and serial == self._serial else []

    def synced(self, serial: int, answer: SyncResult, frame: bytes) -> list[Effect]:
        """What the read of this serial gave. ``frame`` is ``answer`` as it goes out."""
        if self.state is not SessionState.SYNCING or serial != self._serial:
            return []
        # What is held for a user that was not there yet carries its first cursor: the read that knows it comes first.
        if self._again or (self._held and answer.epoch == NO_EPOCH):
            return [self._read()]
        # A frame that a receipt waits for was lost, and the view did not change: the client learns of the seq by this.
        owes = any(self.seq < seq <= answer.seq for seq, _ in self._receipts or ())
        self.state = SessionState.LIVE
        self.tag = cursor_for(answer.epoch, self.view, 0).tag
        self.seq = self.base = answer.seq
        is_news = not isinstance(answer, Unchanged) or bool(answer.external) or answer.external_gap
        is_told = is_news or ((self._is_asked or owes) and self._rules.tells_unchanged)
        position = self.tag, answer.seq
        out: list[Effect] = [SendSync(*position, frame) if is_told else effects.ConfirmCursor(*position)]
        self._is_asked = False
        held, self._held = self._held or (), None
        out += [SendLive(seq, live) for seq, live in held if self.deliver(seq, live)]
        if self._seen is not None:
            out.append(effects.Acknowledge(self._seen))
            self._seen = None
        return out

    def deliver(self, seq: int, frame: bytes) -> bool:
        """A live frame of the view: whether to send it now."""
        if self.state is SessionState.LIVE:
            return self.deliver_run(seq, seq)
        if self._held is not None:
            self._held.append((seq, frame))
            self._held_bytes += len(frame)
            if self._held_bytes > self._rules.queue_bytes:
                # Past the bound they are forgotten, and what is read is read once more.
                self._held, self._held_bytes, self._again = [], 0, True
        return False

    def deliver_run(self, first: int, last: int) -> bool:
        """Live frames of the view: whether to send all of them now; else each is delivered by itself. The hot path."""
        if self.state is not SessionState.LIVE or first <= self.seq:
            return False
        self.seq = last
        return True

    # ---- answers to messages

    def committed(self, seq: int, frame: bytes, reached: int) -> list[Effect]:
        """The receipt of a message, as a frame; it waits for its seq. ``reached``: what the channel has told of."""
        self._receipts = [*(self._receipts or ()), (seq, frame)]
        return self.release_receipts(reached)

    def release_receipts(self, reached: int) -> list[Effect]:
        """The receipts whose seq was told of."""
        if self._receipts is None or self.state is not SessionState.LIVE:
            return []
        reached = max(reached, self.seq)
        out: list[Effect] = [Send(frame) for seq, frame in self._receipts if seq <= reached]
        self._receipts = [receipt for receipt in self._receipts if receipt[0] > reached] or None
        return out

    @property
    def awaits(self) -> bool:
        """Whether receipts wait for their seq."""
        return self._receipts is not None

    def refused(self, ref: Ref, problem: Problem) -> list[Effect]:
        """A message, or a renewal, was refused."""
        return [Send(problem_frame(ref, problem))]

    # ---- time and tokens

    def renewed(self, caller: Caller, lives_s: float, now: float) -> list[Effect]:
        """A good new token: it must speak for the same device and the same categories."""
        old = self.caller
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
        """When ``tick`` has something to do."""
        return NEVER if self.state is SessionState.CLOSED else self._deadlines.due

    def tick(self, now: float) -> list[Effect]:
        """What the passing of time asks for."""
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
        """End it, once."""
        if self.state is SessionState.CLOSED:
            return []
        self.state = SessionState.CLOSED
        self._held = self._receipts = None
        return [CloseConnection(code, reason or close_of(code))]
