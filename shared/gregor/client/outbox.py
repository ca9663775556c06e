"""Messages of a device that the server has not confirmed yet. Pure: frames go out by `sendable`, answers come in.

Laws (docs/semantics.md L11): an entry leaves when its receipt has arrived and the copy has reached its seq, or when the
server refuses it for good. A refused message never blocks the next one. Unanswered messages are sent again after a
reconnect; a repeat changes nothing (L2). A full resync or a flush does not touch the outbox.

Other places have the same rules: see semantics.md, "Where each rule lives".
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from gregor.core.errors import ERRORS
from gregor.core.ids import GREGOR
from gregor.core.times import parse_duration

from .changes import Item
from .messages import Message, catches, intervals, is_open, needs_id
from .reconnect import MAX_WAIT_MS

IN_FLIGHT = 32
"""Messages that may be unanswered at once: below the burst of a device token (50), enough to hide a round trip."""

MAX_MESSAGE_BYTES = 1_000_000
"""Longest message as JSON: the gateway closes a connection at a frame above 1 MiB."""


@dataclass(slots=True)
class OutboxEntry:
    """A pending message: not sent, sent, or answered by a receipt whose seq the copy has not reached."""

    ref: int
    message: Message
    queued_us: int
    is_sent: bool = False
    receipt: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Completed:
    """An entry that left the outbox: with its receipt, or with the problem for which the server refused it."""

    ref: int
    receipt: dict[str, Any] | None = None
    problem: dict[str, Any] | None = None


class Outbox:
    """Pending messages in the order in which they were put, and the overlay that they make."""

    def __init__(self, new_id: Callable[[], str]) -> None:
        """`new_id` returns a globally unique message id at each call."""
        self._new_id = new_id
        self._entries: dict[int, OutboxEntry] = {}
        self._last_ref = 0
        self._hold_until_us = 0  # monotonic

    def __len__(self) -> int:
        return len(self._entries)

    def put(self, message: Message, copy: Mapping[str, Item], now_us: int) -> int:
        """Enqueue a message, made safe to repeat, and return its `ref`. `copy` is the device's copy at this moment.

        `now_us`: the wall time, which a created item shows.

        Raises TypeError or ValueError if the message can never be sent: it is too long, or not JSON in UTF-8.
        """
        size = len(json.dumps(message, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode())
        if size > MAX_MESSAGE_BYTES:
            raise ValueError(f"The message has {size} bytes as JSON; at most {MAX_MESSAGE_BYTES} can be sent.")
        self._last_ref += 1
        prepared = self._prepare(message, copy)
        self._entries[self._last_ref] = OutboxEntry(self._last_ref, prepared, now_us)
        return self._last_ref

    # Waits follow the monotonic clock: a step of the wall clock would extend them by its length.

    def sendable(self, monotonic_us: int) -> list[dict[str, Any]]:
        """Return the frames to send now, oldest first, and mark them as sent."""
        if monotonic_us < self._hold_until_us:
            return []
        waiting = [entry for entry in self._entries.values() if entry.receipt is None]
        in_flight = sum(entry.is_sent for entry in waiting)
        chosen = [entry for entry in waiting if not entry.is_sent][: max(0, IN_FLIGHT - in_flight)]
        for entry in chosen:
            entry.is_sent = True
        return [{"ref": entry.ref, **entry.message} for entry in chosen]

    def hold_s(self, monotonic_us: int) -> float:
        """Return the seconds that remain of a wait that the server asked for; 0 without such a wait."""
        return max(0, self._hold_until_us - monotonic_us) / 1_000_000

    def reconnected(self) -> None:
        """Mark all messages without a receipt as not sent: the connection is new."""
        for entry in self._entries.values():
            entry.is_sent = False

    def answered(self, frame: Mapping[str, Any], seq: int, monotonic_us: int) -> list[Completed]:
        """Process a `receipt` or `problem` frame and return the completed entries. `seq`: position of the copy."""
        entry = self._entries.get(frame["ref"])
        if entry is None:
            return []
        if (receipt := frame.get("receipt")) is not None:
            entry.receipt = receipt
            return self.reached(seq)
        problem: dict[str, Any] = frame["problem"]
        if is_retryable(problem):
            entry.is_sent = False
            wait_ms = min(max(1, problem.get("retry_after_ms", 1_000)), MAX_WAIT_MS)
            self._hold_until_us = monotonic_us + 1_000 * wait_ms
            return []
        del self._entries[entry.ref]
        return [Completed(entry.ref, problem=problem)]

    def reached(self, seq: int) -> list[Completed]:
        """Remove and return the entries whose effect a copy at `seq` shows.

        A message without effect has no frame to wait for: its entry is complete with the receipt.
        """
        done = [
            entry
            for entry in self._entries.values()
            if entry.receipt is not None and (entry.receipt.get("unchanged") or entry.receipt.get("seq", 0) <= seq)
        ]
        for entry in done:
            del self._entries[entry.ref]
        return [Completed(entry.ref, receipt=entry.receipt) for entry in done]

    def full_copy_at(self, seq: int) -> None:
        """Send messages again whose receipt names a seq above that of a full copy.

        A failover lost them (L12): the copy would reach that seq by other messages, without their effect.
        """
        for entry in self._entries.values():
            if entry.receipt is not None and entry.receipt.get("seq", 0) > seq:
                entry.receipt, entry.is_sent = None, False

    def overlay(self, items: Mapping[str, Item]) -> dict[str, Item]:
        """Return the items as they will be when all pending messages are accepted, in their order."""
        shown = dict(items)
        for entry in self._entries.values():
            if entry.message["system"] == GREGOR:
                _overlay_one(entry, shown)
        return shown

    def snapshot(self) -> list[dict[str, Any]]:
        """Return the pending messages as JSON values, to keep over a restart of the process."""
        return [{"message": entry.message, "queued_us": entry.queued_us} for entry in self._entries.values()]

    @classmethod
    def restore(cls, snapshot: list[dict[str, Any]], new_id: Callable[[], str]) -> Outbox:
        """Return an outbox from a snapshot; all its messages are sent again."""
        outbox = cls(new_id)
        for ref, kept in enumerate(snapshot, start=1):
            outbox._entries[ref] = OutboxEntry(ref, kept["message"], kept["queued_us"])
        outbox._last_ref = len(snapshot)
        return outbox

    def _prepare(self, message: Message, copy: Mapping[str, Item]) -> Message:
        prepared = dict(message)
        if prepared["system"] == GREGOR and intervals(prepared["body"]):
            prepared["body"] = self._closed(prepared["body"], copy)
        if prepared.get("id") is None and needs_id(prepared):
            prepared["id"] = self._new_id()
        return prepared

    def _closed(self, body: Mapping[str, Any], copy: Mapping[str, Item]) -> dict[str, Any]:
        """Return the body with an `end` for each open interval that catches items of the copy.

        Pending creations have no `created` that the interval could cover, so the caught ones are dismissed by id.
        """
        dismiss = dict(body["dismiss"])
        pending = self.overlay({})
        ids, closed = list(dismiss.get("ids") or ()), []
        named = {*ids, *(body.get("create") or ())}
        for interval in intervals(body):
            if is_open(interval, body):
                ids += [id_ for id_, item in pending.items() if id_ not in named and catches(interval, id_, item)]
                named.update(ids)
                ends = [item["times"]["created"] for id_, item in copy.items() if catches(interval, id_, item)]
                closed.append({**interval, "end": max(ends)} if ends else interval)
            else:
                closed.append(interval)
        return {**body, "dismiss": {**dismiss, "intervals": closed, **({"ids": ids} if ids else {})}}


def is_retryable(problem: Mapping[str, Any]) -> bool:
    """Return whether the same message may be accepted later: by its code, or by its status if the code is unknown."""
    refusal = ERRORS.get(str(problem.get("code", "")))
    return refusal.retry if refusal else problem.get("status") in (429, 500, 502, 503, 504)


def _overlay_one(entry: OutboxEntry, shown: dict[str, Item]) -> None:
    """Change `shown` as the message will; its intervals never dismiss the items that it creates itself (L3)."""
    if "not_before" in entry.message:
        return  # it takes effect later
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
    """Return a pending creation in the form of an item: stamped with the moment it was put, with offsets resolved."""
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
    if not isinstance(time, str):
        return time
    # The server refuses an offset without a valid duration; until then the item has no such time.
    return created + (parse_duration(time) or 0) / 1_000_000
