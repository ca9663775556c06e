"""The meaning of messages by brute force, written apart from the core: a set of facts, and nothing happens in time.

An item is live if and only if it was created, and neither its id nor an interval covering it was dismissed (L3), where
each dismissal acts for its sender (L8). Only for messages that name all their times.
"""

from __future__ import annotations

from collections.abc import Iterable

from gregor.core.messages import Sender
from gregor.core.sync import View
from tests.property.conversations import Sent
from tests.support.builders import Document


class Facts:
    """All that a set of messages says; their order and number are not kept."""

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
        """The ids that the view shows."""
        return {item_id for item_id, content in self.items.items() if self._shows(view, item_id, content)}

    def _shows(self, view: View, item_id: str, content: Document) -> bool:
        if view.device and content["for_device"] not in (None, "*", view.device):
            return False
        if view.cats is not None and not any(_is_under(prefix, content["category"]) for prefix in view.cats):
            return False
        against = [sender for sender, named in self.dismissed if named == item_id]
        against += [sender for sender, span, spared in self.swept if item_id not in spared and _covers(span, content)]
        return not any(_takes(sender, content, view) for sender in against)


def _takes(sender: Sender, content: Document, view: View) -> bool:
    """Whether a dismissal of the item by ``sender`` takes it out of ``view``."""
    if sender.cats is not None and not any(_is_under(prefix, content["category"]) for prefix in sender.cats):
        return False
    if not sender.device or content["for_device"] in (None, sender.device):
        return True
    return bool(content["for_device"] == "*" and view.device == sender.device)


def _covers(span: Document, content: Document) -> bool:
    category, created = content["category"], content["times"]["created"]
    is_named = (
        _is_under(span["category_prefix"], category) if "category_prefix" in span else span["category"] == category
    )
    return bool(is_named and span.get("begin", 0) <= created <= span["end"])


def _is_under(prefix: str, category: str) -> bool:
    return not prefix or (category + ".").startswith(prefix + ".")
