"""Renders one mail for one or more items: by the category's own templates, else as a plain list in our frame."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from html import escape
from importlib.resources import files
from typing import Final

from gregor.rendering.renderer import Renderer, TemplateItem
from gregor.rendering.translations import Translation, direction_of, translation_for

MAX_LISTED_TEXT: Final = 1_000
"""Characters of an item's title or text in a list of several items; the full text is behind its link."""
MAX_LISTED_LINK: Final = 2_000
"""Characters of a link in such a list. A longer link is left out, because the start of a link leads elsewhere."""
_WHOLE_DOCUMENT: Final = re.compile(r"(?i)\A\s*(<!doctype|<html)")
_BODY_END: Final = re.compile(r"(?i)</body\s*>")


@dataclass(frozen=True, slots=True)
class MailContent:
    """Subject, plain text and HTML of a mail."""

    subject: str
    text: str
    html: str


def render_mail(
    items: Sequence[TemplateItem], renderer: Renderer, locale: str | None, unsubscribe_url: str
) -> MailContent:
    """Render one mail for `items`, in that order. `unsubscribe_url`: empty for none."""
    translation = translation_for(locale)
    rendered = [renderer.render_texts(item, locale) or {} for item in items]
    first = rendered[0].get("title") or ""
    if len(items) == 1:
        mail = renderer.render_email(items[0], locale, unsubscribe_url)
        subject, text, own = (mail.subject, mail.text, mail.html) if mail is not None else (first, first, None)
    else:
        plain = f"{first} (+{len(items) - 1})"
        subject, own = _subject_and_html(items, renderer, locale, unsubscribe_url, plain)
        text = "\n\n".join(_list_entry(texts) for texts in rendered)
    if unsubscribe_url:
        text = f"{text}\n\n-- \n{translation.unsubscribe}: {unsubscribe_url}"
    content = own if own is not None else "".join(_list_row(texts, is_first=n == 0) for n, texts in enumerate(rendered))
    return MailContent(subject, text, _page(content, subject, rendered[0], locale, translation, unsubscribe_url))


def _subject_and_html(
    items: Sequence[TemplateItem], renderer: Renderer, locale: str | None, unsubscribe_url: str, plain: str
) -> tuple[str, str | None]:
    """Return subject and HTML for several items; by the templates of their category if all have the same one."""
    if len({item.category for item in items}) > 1:
        return plain, None
    subject, html = renderer.render_shared_email(items, locale, unsubscribe_url, plain)
    return subject or plain, html


def _list_entry(texts: Mapping[str, str | None]) -> str:
    lines = (f"* {_shorten(texts.get('title'))}", _shorten(texts.get("text")), _listed_link(texts))
    return "\n  ".join(line.replace("\n", "\n  ") for line in lines if line)


def _shorten(text: str | None) -> str:
    text = text or ""
    return text if len(text) <= MAX_LISTED_TEXT else text[: MAX_LISTED_TEXT - 1].rstrip() + "…"


def _listed_link(texts: Mapping[str, str | None]) -> str:
    link = texts.get("link") or ""
    return link if len(link) <= MAX_LISTED_LINK else ""


def _list_row(texts: Mapping[str, str | None], *, is_first: bool) -> str:
    """Return one item of the list: its title (with its link, if any) and its text."""
    title, link = escape(_shorten(texts.get("title"))), _listed_link(texts)
    if link:
        title = f'<a href="{escape(link)}" style="color:#1d2129;text-decoration:underline">{title}</a>'
    line = "" if is_first else "border-top:1px solid #e8ebf0;"
    text = escape(_shorten(texts.get("text"))).replace("\n", "<br>\n")
    shown = f'<div class="text" dir="auto" style="color:#4c5361;font-size:15px">{text}</div>' if text else ""
    return (
        f'<div class="line" style="{line}padding:16px 0"><div class="title" dir="auto" '
        f'style="font-weight:600;font-size:17px;line-height:1.35">{title}</div>{shown}</div>\n'
    )


def _page(
    content: str,
    subject: str,
    first: Mapping[str, str | None],
    locale: str | None,
    translation: Translation,
    unsubscribe_url: str,
) -> str:
    """Put the content into our frame, unless it is a whole document, and add an unsubscribe link if it has none."""
    url = escape(unsubscribe_url)
    needs_link = bool(url) and url not in content
    direction = direction_of(locale)
    link = f'<a href="{url}" style="color:#6b7280" lang="{translation.tag}">{escape(translation.unsubscribe)}</a>'
    if _WHOLE_DOCUMENT.match(content):
        end = f'<p style="font:13px sans-serif;text-align:center">{link}</p>' if needs_link else ""
        found = list(_BODY_END.finditer(content))
        at = found[-1].start() if found else len(content)
        return content[:at] + end + content[at:]
    row = (
        '<tr><td class="foot" align="center" style="padding:20px 12px;font:13px/1.5 -apple-system,BlinkMacSystemFont,'
        f"'Segoe UI',Roboto,'Helvetica Neue',Arial,sans-serif;color:#6b7280\">{link}</td></tr>"
    )
    parts = {
        "lang": f' lang="{escape(locale.replace("_", "-"))}"' if locale else "",
        "dir": direction,
        "subject": escape(subject),
        "preview": escape(_shorten(first.get("text")) or first.get("title") or ""),
        "content": content,
        "foot": row if needs_link else "",
    }
    # One pass: a marker inside of an inserted value is not replaced.
    return re.sub(r"<!--(\w+)-->", lambda found: parts.get(found[1], found[0]), _frame())


@cache
def _frame() -> str:
    return (files("gregor_delivery") / "pages" / "mail.html").read_text("utf-8")
