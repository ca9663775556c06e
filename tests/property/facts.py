"""The meaning of messages by brute force, independent of core.

``Facts``, for messages with all their times, is a set. An item is live if and only if it was created, and neither its
id nor an interval that covers it was dismissed (L3); each dismissal acts for its sender (L8). ``OrderedFacts`` is for
messages without times, for which the order of the commits matters.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from gregor.core.items.sync import View
from gregor.core.messages.model import Sender
from tests.property.conversations import Sent
from tests.support.builders import SECOND_US, Document


class Facts:
    """The facts in a set of messages, without their order and number."""

    def __init__(self, messages: Iterable[Sent]) -> None:
        self.items: dict[str, Document] = {}
        self.dismissed: list[tuple[Sender, str]] = []
        self.swept: list[tuple[Sender, Document, frozenset[str]]] = []
        for sent in messages:
            body = sent.document["body"]
            self.items.update(body["create"])
            self.dismissed += [(sent.sender, item_id) for item_id in body["dismiss"]["ids"]]
            for span in body["dismiss"]["intervals"]:
                self.swept.append((sent.sender, span, frozenset(body["create"]) | frozenset(span["skip"])))

    def live_in(self, view: View) -> set[str]:
        """Return the ids that the view shows."""
        return {item_id for item_id, content in self.items.items() if self._shows(view, item_id, content)}

    def _shows(self, view: View, item_id: str, content: Document) -> bool:
        if not _is_for(view, content):
            return False
        against = [sender for sender, named in self.dismissed if named == item_id]
        against += [sender for sender, span, spared in self.swept if item_id not in spared and _covers(span, content)]
        return not any(_takes(sender, content, view) for sender in against)


class OrderedFacts:
    """The facts in a list of messages. Expiry, flushes, external messages and limits are not included."""

    def __init__(self) -> None:
        self._items: dict[str, tuple[int, Document, int]] = {}
        self._sweeps: list[_Sweep] = []
        self._ids: list[tuple[Sender, str]] = []
        self._step = 0

    def add(self, sent: Sent, now_us: int) -> None:
        """Add one message, committed at ``now_us``."""
        body = sent.document["body"]
        self._step += 1
        if sent.document["system"] != "gregor" or "create" not in body:
            return
        # What was known and live is not remembered as a dismissal of an unknown id, but then it is gone, or hidden.
        self._ids += [(sent.sender, item_id) for item_id in body["dismiss"]["ids"]]
        self._sweeps += [
            self._sweep(sent.sender, span, body["create"], now_us) for span in body["dismiss"]["intervals"]
        ]
        stamp_us = now_us
        for item_id, content in body["create"].items():
            is_stamped = "created" not in content["times"]
            created_us = stamp_us if is_stamped else content["times"]["created"] * SECOND_US
            # One microsecond for each creation that needs a stamp, also for one that is known already.
            stamp_us += is_stamped
            self._items.setdefault(item_id, (self._step, content, created_us))

    def live_in(self, view: View) -> set[str]:
        """Return the ids that the view shows now."""
        return {item_id for item_id in self._items if self._shows(view, item_id)}

    def _sweep(self, sender: Sender, span: Document, create: dict[str, Document], now_us: int) -> _Sweep:
        spared = frozenset(create) | frozenset(span["skip"])
        begin_us = span.get("begin", 0) * SECOND_US
        own = {name: c for name, c in create.items() if name not in span["skip"] and _speaks_of(span, c["category"])}
        explicit = [content["times"]["created"] for content in own.values() if "created" in content["times"]]
        if "end" in span or explicit:
            end_us = (span["end"] if "end" in span else max(explicit)) * SECOND_US
            return _Sweep(sender, span, spared, self._step, begin_us, end_us)
        if own and own.keys() <= self._items.keys():
            known = [self._items[name] for name in own]
            last_step, end_us = max(step for step, _, _ in known), max(created for _, _, created in known)
            return _Sweep(sender, span, spared, self._step, begin_us, end_us, last_message=last_step)
        return _Sweep(sender, span, spared, self._step, begin_us, now_us, last_message=self._step)

    def _shows(self, view: View, item_id: str) -> bool:
        _, content, _ = self._items[item_id]
        if not _is_for(view, content):
            return False
        against = [sender for sender, named in self._ids if named == item_id]
        against += [sweep.sender for sweep in self._sweeps if sweep.catches(item_id, *self._items[item_id])]
        return not any(_takes(sender, content, view) for sender in against)


@dataclass(frozen=True)
class _Sweep:
    """One interval as sent. ``takes_up_to``: an open interval dismisses creations up to this message."""

    sender: Sender
    span: Document
    spared: frozenset[str]
    step: int
    begin_us: int
    end_us: int
    last_message: int | None = None

    def catches(self, item_id: str, step: int, content: Document, created_us: int) -> bool:
        if item_id in self.spared or not _speaks_of(self.span, content["category"]) or created_us < self.begin_us:
            return False
        if self.last_message is None:
            return created_us <= self.end_us
        if step < self.step:
            return step <= self.last_message
        return "created" in content["times"] and created_us <= self.end_us


def _takes(sender: Sender, content: Document, view: View) -> bool:
    """Return whether a dismissal of the item by ``sender`` removes it from ``view``."""
    if sender.category_filter is not None and not any(
        _is_under(prefix, content["category"]) for prefix in sender.category_filter
    ):
        return False
    if not sender.device or content["for_device"] in (None, sender.device):
        return True
    return bool(content["for_device"] == "*" and view.device == sender.device)


def _is_for(view: View, content: Document) -> bool:
    if view.device and content["for_device"] not in (None, "*", view.device):
        return False
    return view.category_filter is None or any(
        _is_under(prefix, content["category"]) for prefix in view.category_filter
    )


def _covers(span: Document, content: Document) -> bool:
    return bool(
        _speaks_of(span, content["category"]) and span.get("begin", 0) <= content["times"]["created"] <= span["end"]
    )


def _speaks_of(span: Document, category: str) -> bool:
    if "category_prefix" in span:
        return _is_under(span["category_prefix"], category)
    return bool(span["category"] == category)


def _is_under(prefix: str, category: str) -> bool:
    return not prefix or (category + ".").startswith(prefix + ".")
