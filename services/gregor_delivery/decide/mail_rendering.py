"""The words of one mail for one or more items: the category's own where it has them, else a plain list in a frame."""

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

LONGEST_LISTED: Final = 1_000
"""Characters of the text of an item that is one of several; the rest is where its link leads."""
_WHOLE: Final = re.compile(r"(?i)\A\s*(<!doctype|<html)")
_END: Final = re.compile(r"(?i)</body\s*>")


@dataclass(frozen=True, slots=True)
class RenderedMail:
    """What the reader sees."""

    subject: str
    text: str
    html: str


def write(items: Sequence[TemplateItem], renderer: Renderer, locale: str | None, unsubscribe_url: str) -> RenderedMail:
    """One mail for these items, the first of them first. `unsubscribe_url`: "" where there is no such link."""
    foot = translation_for(locale)
    said = [renderer.rendered(item, locale) or {} for item in items]
    first = said[0].get("title") or ""
    if len(items) == 1:
        mail = renderer.mail(items[0], locale, unsubscribe_url)
        subject, text, own = (mail.subject, mail.text, mail.html) if mail is not None else (first, first, None)
    else:
        plain = f"{first} (+{len(items) - 1})"
        subject, own = _together(items, renderer, locale, unsubscribe_url, plain)
        text = "\n\n".join(_listed(words) for words in said)
    if unsubscribe_url:
        text = f"{text}\n\n-- \n{foot.unsubscribe}: {unsubscribe_url}"
    content = own if own is not None else "".join(_row(words, is_first=n == 0) for n, words in enumerate(said))
    return RenderedMail(subject, text, _page(content, subject, said[0], locale, foot, unsubscribe_url))


def _together(
    items: Sequence[TemplateItem], renderer: Renderer, locale: str | None, unsubscribe_url: str, plain: str
) -> tuple[str, str | None]:
    """Subject and HTML of several items: of one category's own templates, where they speak of many."""
    if len({item.category for item in items}) > 1:
        return plain, None
    subject, html = renderer.together(items, locale, unsubscribe_url, plain)
    return subject or plain, html


def _listed(words: Mapping[str, str | None]) -> str:
    lines = (f"* {words.get('title') or ''}", _short(words.get("text")), words.get("link"))
    return "\n  ".join(line.replace("\n", "\n  ") for line in lines if line)


def _short(text: str | None) -> str:
    text = text or ""
    return text if len(text) <= LONGEST_LISTED else text[: LONGEST_LISTED - 1].rstrip() + "…"


def _row(words: Mapping[str, str | None], *, is_first: bool) -> str:
    """One item of the list: its title, which is its link where it has one, and its text."""
    title, link = escape(words.get("title") or ""), words.get("link")
    if link:
        title = f'<a href="{escape(link)}" style="color:#1d2129;text-decoration:underline">{title}</a>'
    line = "" if is_first else "border-top:1px solid #e8ebf0;"
    text = escape(_short(words.get("text"))).replace("\n", "<br>\n")
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
    foot: Translation,
    unsubscribe_url: str,
) -> str:
    """The content in its frame; a template that is a whole document stays as it is. Each says how to end it."""
    url = escape(unsubscribe_url)
    needs_foot = bool(url) and url not in content
    direction = direction_of(locale)
    link = f'<a href="{url}" style="color:#6b7280" lang="{foot.tag}">{escape(foot.unsubscribe)}</a>'
    if _WHOLE.match(content):
        end = f'<p style="font:13px sans-serif;text-align:center">{link}</p>' if needs_foot else ""
        found = list(_END.finditer(content))
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
        "preview": escape(_short(first.get("text")) or first.get("title") or ""),
        "content": content,
        "foot": row if needs_foot else "",
    }
    # One pass: what is put in is not looked through again.
    return re.sub(r"<!--(\w+)-->", lambda found: parts.get(found[1], found[0]), _frame())


@cache
def _frame() -> str:
    return (files("gregor_delivery") / "pages" / "mail.html").read_text("utf-8")
