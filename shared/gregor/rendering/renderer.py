"""Renders the texts of items: title, text and link for screens and pushes, subject and HTML for e-mails.

``check_templates`` tries all templates when a set of notification types is applied. An error that depends on one item,
such as a division by zero, is reported to ``on_failure``, and the item gets a plain title instead. Rendering never
raises.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from gregor.clock import SystemClock
from gregor.core.categories.policy import CategoryPolicies, CategoryPolicy, CategoryTexts
from gregor.core.errors import FieldError
from gregor.core.json_text import pointer_to
from gregor.cpu_meter import spend

from .sandbox import Template, TemplateError, compile_template

_CONTROL: Final = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ufeff]")
_SPACE: Final = re.compile(r"[\s\u2028\u2029]+")
# A link may have any scheme of an app, but must not run a script in a web page. A path stays on the host of the app: a
# body must not turn the template "/{{ body.path }}" into "//host". Browsers read a backslash as a slash.
_UNSAFE_LINK: Final = re.compile(r"(?i)(javascript|vbscript|data):|[/\\]{2}")
_MAX_COMPILED: Final = 5_000
_SUMMARY: Final = frozenset(("count", "items"))

_ITEMS_PER_SLICE: Final = 25
"""Items rendered without a pause: about a millisecond."""
_BYTES_PER_SLICE: Final = 4_096
"""Bytes of items rendered without a pause (its time: ``gregor.core.items.read_cost``)."""
_BYTES_IN_LOOP: Final = 8_192
"""Bytes of a slice above which it is rendered in a thread: one item can take up to 0.3 s."""

_decode: Final = msgspec.json.Decoder(float_hook=float).decode
_encode: Final = msgspec.json.Encoder().encode


OnFailure = Callable[[str, str, str], None]
"""Called for each failed rendering with category, field and reason."""


@dataclass(frozen=True, slots=True)
class TemplateItem:
    """An item as its templates see it. ``body`` is decoded JSON; times are Unix seconds."""

    id: str
    category: str
    body: Any
    created: float
    expires: float | None = None
    uid: str = ""

    @classmethod
    def of_json(cls, item_id: str, item_json: bytes, uid: str = "") -> TemplateItem:
        """Return an item from its JSON on the wire."""
        item = _decode(item_json)
        times = item["times"]
        return cls(item_id, item["category"], item["body"], times["created"], times.get("expires"), uid)

    @property
    def summary(self) -> Mapping[str, Any] | None:
        """Return the content of a summary (semantics.md, "Aggregation"); ``None`` for an ordinary item."""
        summary = self.body.get("summary") if isinstance(self.body, dict) and len(self.body) == 1 else None
        is_valid = (
            isinstance(summary, dict)
            and isinstance(summary.get("count"), int)
            and isinstance(summary.get("sample"), list)
        )
        return summary if is_valid else None


@dataclass(frozen=True, slots=True)
class RenderedMail:
    """The texts of one e-mail. ``html`` is ``None`` if the notification type has no HTML template."""

    subject: str
    text: str
    html: str | None


@dataclass(frozen=True, slots=True)
class _RenderInput:
    """The templates of one item in the language of a reader, and their variables."""

    texts: CategoryTexts
    item: TemplateItem
    variables: dict[str, Any]
    is_summary: bool


# ---- rendering


class Renderer:
    """Renders items with the templates of a set of notification types. Templates are compiled once, on first use."""

    def __init__(self, entries: CategoryPolicies, on_failure: OnFailure | None = None) -> None:
        self._entries = entries
        self._on_failure = on_failure
        self._compiled: dict[tuple[str, bool], Template] = {}

    def has_texts(self, category: str) -> bool:
        """Return whether items of a category have rendered texts: its entry has a title."""
        return self._entries.resolve(category).title is not None

    def render_texts(self, item: TemplateItem, locale: str | None = None) -> dict[str, str | None] | None:
        """Return title, text and link; ``None`` if the category has no title template."""
        policy = self._entries.resolve(item.category)
        if policy.title is None:
            return None
        texts = self._texts(_input(policy, item, locale))
        return {"title": texts["title"], "text": texts["text"] or None, "link": texts["link"] or None}

    def render_json(self, items: Iterable[tuple[str, bytes]], locale: str, uid: str) -> bytes:
        """Return the texts of several items as a JSON object by item id. ``items``: ids and JSON on the wire."""
        if not self._entries:
            return b"{}"
        texts = (
            (item_id, self.render_texts(TemplateItem.of_json(item_id, raw, uid), locale)) for item_id, raw in items
        )
        return b"{%s}" % b",".join(
            b'"%s":%s' % (item_id.encode(), _encode(rendered)) for item_id, rendered in texts if rendered is not None
        )

    async def render_json_in_slices(self, items: Sequence[tuple[str, bytes]], locale: str, uid: str) -> bytes:
        """Return the result of ``render_json``, but give other tasks of the event loop a turn between slices."""
        parts = []
        for some in _slices(items if self._entries else ()):
            if sum(len(text) for _, text in some) > _BYTES_IN_LOOP:
                rendered, used_ns = await asyncio.to_thread(self._render_measured, some, locale, uid)
                spend(used_ns)
            else:
                rendered = self.render_json(some, locale, uid)
                await asyncio.sleep(0)
            parts.append(rendered[1:-1])
        return b"{%s}" % b",".join(filter(None, parts))

    def _render_measured(self, items: Sequence[tuple[str, bytes]], locale: str, uid: str) -> tuple[bytes, int]:
        """Return the result of ``render_json``, and the CPU time of the calling thread in nanoseconds."""
        began_ns = SystemClock.cpu_ns()
        rendered = self.render_json(items, locale, uid)
        return rendered, SystemClock.cpu_ns() - began_ns

    def render_email(
        self, item: TemplateItem, locale: str | None = None, unsubscribe_url: str = ""
    ) -> RenderedMail | None:
        """Return the e-mail of an item; ``None`` if its category has no e-mail."""
        policy = self._entries.resolve(item.category)
        if policy.email is None:
            return None
        inputs = _input(policy, item, locale, unsubscribe_url)
        texts = self._texts(inputs)
        title = texts["title"]
        subject = self._line(inputs, "subject", inputs.texts.subject, str(title)) or str(title)
        html = self._field(inputs, "html", inputs.texts.html, None, is_html=True)
        text = "\n\n".join(part for part in (title, texts["text"], texts["link"]) if part)
        return RenderedMail(subject, text, html)

    def render_shared_email(
        self, items: Sequence[TemplateItem], locale: str | None, unsubscribe_url: str, title: str
    ) -> tuple[str | None, str | None]:
        """Return subject and HTML of one e-mail about several items of a category.

        A value is ``None`` if its template describes only one item, that is, uses neither ``count`` nor ``items``.
        ``title`` is the variable ``title`` if the category has no title for summaries.
        """
        inputs = _shared_input(self._entries.resolve(items[0].category), items, locale, unsubscribe_url)
        texts, variables = inputs.texts, inputs.variables
        summary_title = self._line(inputs, "title", texts.summary, None, is_about_items=True)
        variables["title"] = summary_title or title
        variables["text"] = self._field(inputs, "text", texts.text, None) or ""
        variables["link"] = self._link(inputs)
        subject = self._line(inputs, "subject", texts.subject, None) or summary_title
        return subject, self._field(inputs, "html", texts.html, None, is_html=True)

    def collapse_key(self, item: TemplateItem) -> str | None:
        """Return the key by which a push of this item replaces earlier ones; ``None`` if it replaces none."""
        policy = self._entries.resolve(item.category)
        if policy.collapse is None:
            return None
        return self._line(_input(policy, item, None), "collapse", policy.collapse, None, is_about_items=True) or None

    def _texts(self, inputs: _RenderInput) -> dict[str, str | None]:
        """Render title, text and link. The later templates can use them as variables."""
        texts, variables = inputs.texts, inputs.variables
        plain = plain_title(inputs.item)
        template = texts.summary if inputs.is_summary else texts.title
        title = self._line(inputs, "title", template, plain, is_about_items=True) or plain
        variables["title"] = title
        text = _CONTROL.sub("", self._field(inputs, "text", texts.text, None) or "").strip()
        variables["text"] = text
        variables["link"] = self._link(inputs)
        return {"title": title, "text": text, "link": variables["link"]}

    def _link(self, inputs: _RenderInput) -> str:
        """Return the link, or "" if there is none or it is unsafe. Templates of e-mails use it in ``href``."""
        link = self._line(inputs, "link", inputs.texts.link, None) or ""
        return "" if _UNSAFE_LINK.match(link) else link

    def _line(
        self, inputs: _RenderInput, field: str, source: str | None, plain: str | None, *, is_about_items: bool = False
    ) -> str | None:
        text = self._field(inputs, field, source, plain, is_about_items=is_about_items)
        return None if text is None else one_line(text)

    def _field(
        self,
        inputs: _RenderInput,
        field: str,
        source: str | None,
        plain: str | None,
        *,
        is_html: bool = False,
        is_about_items: bool = False,
    ) -> str | None:
        """Render one template. Returns ``plain`` if the template is missing or fails.

        For a summary, a template for single items is used only if it contains ``count`` or ``items``.
        """
        if source is None:
            return plain
        try:
            template = self._template(source, is_html)
            if inputs.is_summary and not is_about_items and not template.names & _SUMMARY:
                return plain
            return template.render(inputs.variables)
        except TemplateError as error:
            if self._on_failure is not None:
                self._on_failure(inputs.item.category, field, str(error))
            return plain

    def _template(self, source: str, is_html: bool) -> Template:
        found = self._compiled.get((source, is_html))
        if found is None:
            # Sets have some hundred templates; this bounds the memory of an extreme one.
            if len(self._compiled) >= _MAX_COMPILED:
                self._compiled.clear()
            found = self._compiled[source, is_html] = compile_template(source, is_html=is_html)
        return found


# ---- checks of templates


def check_templates(document: Any) -> list[FieldError]:
    """Compile and try all templates of a document. Returns an error with pointer and line for each invalid one.

    Ignores values that are not templates: ``core.categories.parse`` reports them.
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


# ---- texts and variables


def one_line(text: str) -> str:
    """Return a text without control characters and line breaks, for titles and subjects."""
    return _CONTROL.sub("", _SPACE.sub(" ", text)).strip()


def plain_title(item: TemplateItem) -> str:
    """Return the title of an item without a usable template: its category, and the count of a summary."""
    title = re.sub(r"[._-]+", " ", item.category).strip().capitalize()
    summary = item.summary
    return title if summary is None else f"{title} ({summary['count']})"


def _input(policy: CategoryPolicy, item: TemplateItem, locale: str | None, unsubscribe_url: str = "") -> _RenderInput:
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
        "link": "",
        "unsubscribe_url": unsubscribe_url,
    }
    return _RenderInput(policy.texts_for(locale), item, variables, summary is not None)


def _shared_input(
    policy: CategoryPolicy, items: Sequence[TemplateItem], locale: str | None, unsubscribe_url: str
) -> _RenderInput:
    """Return the input for several items, with the variables of a summary."""
    each = [_input(policy, item, locale, unsubscribe_url).variables for item in items]
    variables = {
        **each[0],
        "count": sum(one["count"] for one in each),
        "items": [sample for one in each for sample in one["items"]],
    }
    return _RenderInput(policy.texts_for(locale), items[0], variables, is_summary=True)


def _sources(document: Any) -> Iterator[tuple[tuple[str, ...], str]]:
    """Yield every template of a document with its path."""
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
    except TemplateError as error:
        return str(error)
    return None


def _slices(items: Sequence[tuple[str, bytes]]) -> Iterator[Sequence[tuple[str, bytes]]]:
    """Yield the items in slices of at most ``_ITEMS_PER_SLICE``; a slice ends after ``_BYTES_PER_SLICE``."""
    start = size = 0
    for at, (_, text) in enumerate(items, 1):
        size += len(text)
        if size >= _BYTES_PER_SLICE or at - start >= _ITEMS_PER_SLICE or at == len(items):
            yield items[start:at]
            start, size = at, 0
