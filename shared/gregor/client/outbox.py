"""What a device wants to say and the server has not yet taken. PURE: frames go out by `sendable`, answers come in.

Laws (semantics.md L11): an entry goes when its receipt has come and the copy has reached its seq, or when the server
refuses it for good; a refused message never blocks the next one; unanswered ones are sent again after a reconnect, and
each is written so that the repeat changes nothing (L2); a full resync or a flush touches nothing here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from gregor.core.errors import ERRORS
from gregor.core.ids import GREGOR

from .changes import Item
from .messages import Message, catches, intervals, is_loose, needs_id

IN_FLIGHT = 32
"""Messages that may be unanswered at once: under the burst of a device token (50), enough to hide a round trip."""


@dataclass(slots=True)
class Entry:
    """One message that waits: not sent, sent, or answered by a receipt whose seq the copy has not reached."""

    ref: int
    message: Message
    queued_us: int
    is_sent: bool = False
    receipt: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Settled:
    """An entry that left the outbox: with the receipt, or with the problem for which the server refused it."""

    ref: int
    receipt: dict[str, Any] | None = None
    problem: dict[str, Any] | None = None


class Outbox:
    """Entries in the order in which they were put, and the overlay that they make."""

    def __init__(self, new_id: Callable[[], str]) -> None:
        """`new_id` gives message ids that nobody else will ever give."""
        self._new_id = new_id
        self._entries: dict[int, Entry] = {}
        self._last_ref = 0
        self._hold_until_us = 0

    def __len__(self) -> int:
        return len(self._entries)

    def put(self, message: Message, copy: Mapping[str, Item], now_us: int) -> int:
        """Take a message, made safe to repeat; its `ref`. `copy` is the device's copy at this moment."""
        self._last_ref += 1
        prepared = self._prepare(message, copy)
        self._entries[self._last_ref] = Entry(self._last_ref, prepared, now_us)
        return self._last_ref

    def sendable(self, now_us: int) -> list[dict[str, Any]]:
        """The frames to send now, oldest first; each counts as sent from here on."""
        if now_us < self._hold_until_us:
            return []
        waiting = [entry for entry in self._entries.values() if entry.receipt is None]
        in_flight = sum(entry.is_sent for entry in waiting)
        chosen = [entry for entry in waiting if not entry.is_sent][: max(0, IN_FLIGHT - in_flight)]
        for entry in chosen:
            entry.is_sent = True
        return [{"ref": entry.ref, **entry.message} for entry in chosen]

    def hold_s(self, now_us: int) -> float:
        """Seconds until `sendable` may give more, as far as the server asked us to wait."""
        return max(0, self._hold_until_us - now_us) / 1_000_000

    def reconnected(self) -> None:
        """The connection is a new one: what has no receipt counts as never sent."""
        for entry in self._entries.values():
            entry.is_sent = False

    def answered(self, frame: Mapping[str, Any], seq: int, now_us: int) -> list[Settled]:
        """Take a `receipt` or `problem` frame; `seq` is where the copy stands. What left by it."""
        entry = self._entries.get(frame["ref"])
        if entry is None:
            return []
        if (receipt := frame.get("receipt")) is not None:
            entry.receipt = receipt
            return self.reached(seq)
        problem: dict[str, Any] = frame["problem"]
        if is_retryable(problem):
            entry.is_sent = False
            self._hold_until_us = now_us + 1_000 * max(1, problem.get("retry_after_ms", 1_000))
            return []
        del self._entries[entry.ref]
        return [Settled(entry.ref, problem=problem)]

    def reached(self, seq: int) -> list[Settled]:
        """The copy stands at `seq`: entries whose effect it shows go; one without effect has no frame to wait for."""
        done = [
            entry
            for entry in self._entries.values()
            if entry.receipt is not None and (entry.receipt.get("unchanged") or entry.receipt.get("seq", 0) <= seq)
        ]
        for entry in done:
            del self._entries[entry.ref]
        return [Settled(entry.ref, receipt=entry.receipt) for entry in done]

    def overlay(self, items: Mapping[str, Item]) -> dict[str, Item]:
        """The items as they will be once all waiting messages are accepted, in the order in which they were put."""
        shown = dict(items)
        for entry in self._entries.values():
            if entry.message["system"] == GREGOR:
                _lay(entry, shown)
        return shown

    def dump(self) -> list[dict[str, Any]]:
        """The waiting messages as JSON values, to be kept over a restart of the process."""
        return [{"message": entry.message, "queued_us": entry.queued_us} for entry in self._entries.values()]

    @classmethod
    def load(cls, dumped: list[dict[str, Any]], new_id: Callable[[], str]) -> Outbox:
        """An outbox from what `dump` gave; everything in it is sent again."""
        outbox = cls(new_id)
        for ref, kept in enumerate(dumped, start=1):
            outbox._entries[ref] = Entry(ref, kept["message"], kept["queued_us"])
        outbox._last_ref = len(dumped)
        return outbox

    def _prepare(self, message: Message, copy: Mapping[str, Item]) -> Message:
        prepared = dict(message)
        if prepared["system"] == GREGOR and intervals(prepared["body"]):
            prepared["body"] = self._closed(prepared["body"], copy)
        if prepared.get("id") is None and needs_id(prepared):
            prepared["id"] = self._new_id()
        return prepared

    def _closed(self, body: Mapping[str, Any], copy: Mapping[str, Item]) -> dict[str, Any]:
        """The body with an `end` for each loose interval that catches something of the copy.

        Creations that wait here have no `created` that the interval could cover, so those it catches are named by id.
        """
        dismiss = dict(body["dismiss"])
        pending = self.overlay({})
        ids, closed = list(dismiss.get("ids") or ()), []
        taken = {*ids, *(body.get("create") or ())}
        for interval in intervals(body):
            if is_loose(interval, body):
                ids += [id_ for id_, item in pending.items() if id_ not in taken and catches(interval, id_, item)]
                taken.update(ids)
                ends = [item["times"]["created"] for id_, item in copy.items() if catches(interval, id_, item)]
                closed.append({**interval, "end": max(ends)} if ends else interval)
            else:
                closed.append(interval)
        return {**body, "dismiss": {**dismiss, "intervals": closed, **({"ids": ids} if ids else {})}}


def is_retryable(problem: Mapping[str, Any]) -> bool:
    """Whether the same message may be accepted later: by the table, and by status for a code that it does not know."""
    refusal = ERRORS.get(problem.get("code", ""))
    return refusal.retry if refusal else problem.get("status") in (429, 500, 503)


def _lay(entry: Entry, shown: dict[str, Item]) -> None:
    """Change `shown` as the message of `entry` will: its intervals never act on the ids that it names itself (L3)."""
    if "not_before" in entry.message:
        return  # it changes nothing yet
    body = entry.message["body"]
    create = body.get("create") or {}
    dismiss = body.get("dismiss") or {}
    spans = intervals(body)
    gone = set(dismiss.get("ids") or ())
    gone |= {id_ for id_, item in shown.items() if id_ not in create and any(catches(s, id_, item) for s in spans)}
    for id_ in gone:
        shown.pop(id_, None)
    for id_, item in create.items():
        shown.setdefault(id_, _as_shown(item, entry.queued_us))


def _as_shown(item: Mapping[str, Any], queued_us: int) -> Item:
    """A creation of ours in the shape of an item: stamped with the moment it was put, offsets resolved."""
    times = item.get("times") or {}
    created = times.get("created")
    created = queued_us / 1_000_000 if created is None else created
    shown: dict[str, Any] = {"created": created}
    if times.get("expires") is not None:
        shown["expires"] = _absolute(times["expires"], created)
    if times.get("remind_at"):
        shown["remind_at"] = sorted(_absolute(at, created) for at in times["remind_at"])
    return {
        "times": shown,
        "for_device": item.get("for_device"),
        "category": item["category"],
        "body": item.get("body"),
    }


def _absolute(time: float | str, created: float) -> float:
    return created + float(time) if isinstance(time, str) else time
