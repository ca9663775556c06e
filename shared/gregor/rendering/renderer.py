"""Words for people: title, text and link of an item for screens, the push and the mail (reference/categories.md).

Templates are tried when entries are applied (``check_templates``), so that a bad one never gets in. What still goes
wrong with one item when it is shown (a division by zero, a limit) is told (``Failed``), and it gets plain words
in its place: nothing here raises.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from gregor.core.categories.policy import CategoryPolicies, CategoryPolicy, CategoryTexts
from gregor.core.errors import FieldError
from gregor.core.json_text import pointer_to

from .sandbox import Template, TemplateError, compile_template

_CONTROL: Final = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ufeff]")
_SPACE: Final = re.compile(r"[\s\u2028\u2029]+")
_SCRIPT: Final = re.compile(r"(?i)(javascript|vbscript|data):")
_MOST_COMPILED: Final = 5_000
_SUMMARY: Final = frozenset(("count", "items"))

_AT_ONCE: Final = 25  # items: about a millisecond

_decode: Final = msgspec.json.Decoder().decode
_encode: Final = msgspec.json.Encoder().encode


Failed = Callable[[str, str, str], None]
"""Hears of a rendering that failed: category, field and reason."""


@dataclass(frozen=True, slots=True)
class TemplateItem:
    """An item as its templates see it. ``body``: the decoded JSON; times in Unix seconds."""

    id: str
    category: str
    body: Any
    created: float
    expires: float | None = None
    uid: str = ""

    @classmethod
    def of_json(cls, item_id: str, item_json: bytes, uid: str = "") -> TemplateItem:
        """An item from its JSON as it goes out."""
        item = _decode(item_json)
        times = item["times"]
        return cls(item_id, item["category"], item["body"], times["created"], times.get("expires"), uid)

    @property
    def summary(self) -> Mapping[str, Any] | None:
        """What a summary says (semantics.md, "Aggregation"); ``None`` for an ordinary item."""
        said = self.body.get("summary") if isinstance(self.body, dict) and len(self.body) == 1 else None
        is_one = isinstance(said, dict) and isinstance(said.get("count"), int) and isinstance(said.get("sample"), list)
        return said if is_one else None


@dataclass(frozen=True, slots=True)
class RenderedMail:
    """One mail. ``html`` is ``None`` where the entry has none."""

    subject: str
    text: str
    html: str | None


@dataclass(frozen=True, slots=True)
class _Reading:
    """One item for one reader: its words, and the variables of its templates."""

    texts: CategoryTexts
    item: TemplateItem
    variables: dict[str, Any]
    is_summary: bool


class Renderer:
    """Renders items by a set of entries. Templates are compiled when they are first needed, and kept.

    ``failed`` is told category, field and reason of each rendering that failed.
    """

    def __init__(self, entries: CategoryPolicies, failed: Failed | None = None) -> None:
        self._entries = entries
        self._failed = failed
        self._compiled: dict[tuple[str, bool], Template] = {}

    def rendered(self, item: TemplateItem, locale: str | None = None) -> dict[str, str | None] | None:
        """Title, text and link; ``None`` for a category without a title, which has no words."""
        policy = self._entries.resolve(item.category)
        if policy.title is None:
            return None
        words = self._words(_reading(policy, item, locale))
        return {"title": words["title"], "text": words["text"] or None, "link": words["link"] or None}

    def render_json(self, items: Iterable[tuple[str, bytes]], locale: str, uid: str) -> bytes:
        """``rendered`` of items by id, given as they go out: a JSON object, ready to be put beside them."""
        if not self._entries:
            return b"{}"
        said = ((item_id, self.rendered(TemplateItem.of_json(item_id, raw, uid), locale)) for item_id, raw in items)
        return b"{%s}" % b",".join(
            b'"%s":%s' % (item_id.encode(), _encode(words)) for item_id, words in said if words is not None
        )

    async def render_json_in_slices(self, items: Sequence[tuple[str, bytes]], locale: str, uid: str) -> bytes:
        """``render_json`` of many items, so that others have their turn in between."""
        parts = []
        for start in range(0, len(items) if self._entries else 0, _AT_ONCE):
            parts.append(self.render_json(items[start : start + _AT_ONCE], locale, uid)[1:-1])
            await asyncio.sleep(0)
        return b"{%s}" % b",".join(filter(None, parts))

    def mail(self, item: TemplateItem, locale: str | None = None, unsubscribe_url: str = "") -> RenderedMail | None:
        """The mail of an item; ``None`` for a category that sends none."""
        policy = self._entries.resolve(item.category)
        if policy.email is None:
            return None
        reading = _reading(policy, item, locale, unsubscribe_url)
        words = self._words(reading)
        title = words["title"]
        subject = self._line(reading, "subject", reading.texts.subject, str(title)) or str(title)
        html = self._field(reading, "html", reading.texts.html, None, is_html=True)
        text = "\n\n".join(part for part in (title, words["text"], words["link"]) if part)
        return RenderedMail(subject, text, html)

    def together(
        self, items: Sequence[TemplateItem], locale: str | None, unsubscribe_url: str, title: str
    ) -> tuple[str | None, str | None]:
        """Subject and HTML of one mail for several items of one category, as far as its templates speak of many.

        They do where they mention ``count`` or ``items``, and the title of summaries does always. ``title``: what the
        templates see as such where there is none.
        """
        reading = _reading_together(self._entries.resolve(items[0].category), items, locale, unsubscribe_url)
        texts, variables = reading.texts, reading.variables
        said = self._line(reading, "title", texts.summary, None, is_about_items=True)
        variables["title"] = said or title
        variables["text"] = self._field(reading, "text", texts.text, None) or ""
        subject = self._line(reading, "subject", texts.subject, None) or said
        return subject, self._field(reading, "html", texts.html, None, is_html=True)

    def collapse(self, item: TemplateItem) -> str | None:
        """What an item shares with those that its push replaces; ``None`` where it replaces none."""
        policy = self._entries.resolve(item.category)
        if policy.collapse is None:
            return None
        return self._line(_reading(policy, item, None), "collapse", policy.collapse, None, is_about_items=True) or None

    def _words(self, reading: _Reading) -> dict[str, str | None]:
        """Title, text and link; the first two are seen by what is rendered next."""
        texts, variables = reading.texts, reading.variables
        plain = plain_title(reading.item)
        template = texts.summary if reading.is_summary else texts.title
        title = self._line(reading, "title", template, plain, is_about_items=True) or plain
        variables["title"] = title
        text = _CONTROL.sub("", self._field(reading, "text", texts.text, None) or "").strip()
        variables["text"] = text
        link = self._line(reading, "link", texts.link, None) or ""
        return {"title": title, "text": text, "link": None if _SCRIPT.match(link) else link}

    def _line(
        self, reading: _Reading, field: str, source: str | None, plain: str | None, *, is_about_items: bool = False
    ) -> str | None:
        text = self._field(reading, field, source, plain, is_about_items=is_about_items)
        return None if text is None else one_line(text)

    def _field(
        self,
        reading: _Reading,
        field: str,
        source: str | None,
        plain: str | None,
        *,
        is_html: bool = False,
        is_about_items: bool = False,
    ) -> str | None:
        """One template rendered; ``plain`` where there is none, where it fails, and where it is not about summaries.

        A text of an item says nothing of many: for a summary it is used only if it mentions ``count`` or ``items``.
        """
        if source is None:
            return plain
        try:
            template = self._template(source, is_html)
            if reading.is_summary and not is_about_items and not template.names & _SUMMARY:
                return plain
            return template.render(reading.variables)
        except TemplateError as fault:
            if self._failed is not None:
                self._failed(reading.item.category, field, str(fault))
            return plain

    def _template(self, source: str, is_html: bool) -> Template:
        found = self._compiled.get((source, is_html))
        if found is None:
            if len(self._compiled) >= _MOST_COMPILED:
                self._compiled.clear()
            found = self._compiled[source, is_html] = compile_template(source, is_html=is_html)
        return found


def check_templates(document: Any) -> list[FieldError]:
    """Compile and try every template of a set of entries, each where it is written: what is wrong, with its line.

    Looks past what is no entry, and no text: ``core.entries`` says that.
    """
    faults = []
    tried: dict[tuple[str, bool], str | None] = {}
    for path, source in _sources(document):
        is_html = path[-1] == "html"
        if (source, is_html) not in tried:
            tried[source, is_html] = _try(source, is_html)
        reason = tried[source, is_html]
        if reason is not None:
            faults.append(FieldError(pointer_to(path), reason))
    return faults


def one_line(text: str) -> str:
    """A text without control characters and line breaks, as titles and subjects are."""
    return _CONTROL.sub("", _SPACE.sub(" ", text)).strip()


def plain_title(item: TemplateItem) -> str:
    """The words for an item whose template has none: its category, and how many a summary stands for."""
    words = re.sub(r"[._-]+", " ", item.category).strip().capitalize()
    summary = item.summary
    return words if summary is None else f"{words} ({summary['count']})"


def _reading(policy: CategoryPolicy, item: TemplateItem, locale: str | None, unsubscribe_url: str = "") -> _Reading:
    summary = item.summary if policy.aggregate is not None else None
    variables = {
        "id": item.id,
        "category": item.category,
        "body": item.body if item.body is not None else {},
        "created": item.created,
        "expires": item.expires,
        "uid": item.uid,
        "locale": locale,
        "count": 1 if summary is None else summary["count"],
        "items": [{"id": item.id, "body": item.body}] if summary is None else summary["sample"],
        "title": "",
        "text": "",
        "unsubscribe_url": unsubscribe_url,
    }
    return _Reading(policy.texts_for(locale), item, variables, summary is not None)


def _reading_together(
    policy: CategoryPolicy, items: Sequence[TemplateItem], locale: str | None, unsubscribe_url: str
) -> _Reading:
    """Several items, as templates of summaries see what a summary folds."""
    each = [_reading(policy, item, locale, unsubscribe_url).variables for item in items]
    variables = {
        **each[0],
        "count": sum(one["count"] for one in each),
        "items": [sample for one in each for sample in one["items"]],
    }
    return _Reading(policy.texts_for(locale), items[0], variables, is_summary=True)


def _sources(document: Any) -> Iterator[tuple[tuple[str, ...], str]]:
    """Every template that is written in the entries, and its place."""
    for name, entry in _members(document):
        locales = entry.get("locales") if isinstance(entry, Mapping) else None
        tables = [((name,), entry), *(((name, "locales", tag), table) for tag, table in _members(locales))]
        for place, table in tables:
            for path in _TEMPLATES:
                value = table
                for step in path:
                    value = value.get(step) if isinstance(value, Mapping) else None
                if isinstance(value, str) and value.strip() and not value.startswith("file:"):
                    yield (*place, *path), value


def _members(table: Any) -> list[tuple[str, Any]]:
    return list(table.items()) if isinstance(table, Mapping) else []


_TEMPLATES: Final = (
    *(("title",), ("text",), ("link",), ("collapse",)),
    *(("email", "subject"), ("email", "html"), ("aggregate", "title")),
)


def _try(source: str, is_html: bool) -> str | None:
    try:
        compile_template(source, is_html=is_html).check()
    except TemplateError as fault:
        return str(fault)
    return None
