"""Rendered titles, texts, links and e-mails, and their replacements after a failure."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from gregor.core.categories.parse import parse_categories
from gregor.rendering.renderer import RenderedMail, Renderer, TemplateItem, check_templates, one_line

ENTRY: dict[str, Any] = {"title": "{{ body.k }} joined", "text": "By {{ body.by }}.", "link": "app://{{ body.k }}"}
SUMMARY = {
    "summary": {"count": 7, "since": 5, "sample": [{"id": "x", "body": {"k": "a"}}, {"id": "y", "body": {"k": "b"}}]}
}


class Failures:
    """Records the failures that a renderer reports."""

    def __init__(self) -> None:
        self.reported: list[tuple[str, str, str]] = []

    def __call__(self, category: str, field: str, reason: str) -> None:
        self.reported.append((category, field, reason))


def renderer(failures: Failures | None = None, **entry: Any) -> Renderer:
    return Renderer(parse_categories({"user.joined": entry}), failures)


def item(body: Any, category: str = "user.joined") -> TemplateItem:
    return TemplateItem("aa", category, body, 1_457_056_447, None, "alice")


def test_title_text_and_link() -> None:
    assert renderer(**ENTRY).render_texts(item({"k": "kb", "by": "Bob"})) == {
        "title": "kb joined",
        "text": "By Bob.",
        "link": "app://kb",
    }
    assert renderer(title="x").render_texts(item(None)) == {"title": "x", "text": None, "link": None}


def test_category_without_title_has_no_texts() -> None:
    assert renderer(text="x").render_texts(item({})) is None
    assert renderer(**ENTRY).render_texts(item({}, "other")) is None
    assert renderer(**ENTRY).render_email(item({})) is None
    assert renderer(**ENTRY).collapse_key(item({})) is None


def test_template_variables() -> None:
    source = (
        "{{ id }} {{ category }} {{ created }} {{ expires }} {{ uid }} {{ locale }} {{ count }} {{ items[0].body.k }}"
    )
    shown = TemplateItem("aa", "user.joined", {"k": "kb"}, 5, 6, "alice")

    assert renderer(title=source).render_texts(shown, "it") == {
        "title": "aa user.joined 5 6 alice it 1 kb",
        "text": None,
        "link": None,
    }


def test_item_from_wire_json() -> None:
    raw = b'{"body":{"k":"kb"},"category":"user.joined","for_device":null,"times":{"created":5.5,"expires":6}}'

    assert TemplateItem.of_json("aa", raw, "alice") == TemplateItem("aa", "user.joined", {"k": "kb"}, 5.5, 6, "alice")


def test_texts_of_many_items_as_json() -> None:
    raw = b'{"body":{"k":"k\\"b"},"category":"%s","for_device":null,"times":{"created":5}}'
    made = renderer(title="{{ body.k }}", locales={"it": {"title": "è"}})

    text = made.render_json([("aa", raw % b"user.joined"), ("bb", raw % b"other")], "de", "alice")

    assert text == b'{"aa":{"title":"k\\"b","text":null,"link":null}}'
    assert made.render_json([], "it", "alice") == b"{}"


async def test_slices_have_the_same_result() -> None:
    raw = b'{"body":null,"category":"user.joined","for_device":null,"times":{"created":5}}'
    items = [(f"i{n}", raw) for n in range(60)]
    made = renderer(title="{{ id }}")

    assert await made.render_json_in_slices(items, "it", "alice") == made.render_json(items, "it", "alice")
    assert await made.render_json_in_slices([], "it", "alice") == b"{}"


def test_titles_and_subjects_are_one_line() -> None:
    entry: dict[str, Any] = {
        "title": "a\n{{ body.k }}\t\u202ebc\u2028d",
        "text": "x\n{{ body.k }}\x07y",
        "email": {"subject": "s\r\n{{ body.k }}"},
    }
    made = renderer(**entry)

    assert made.render_texts(item({"k": "k\r\nBcc: all"})) == {
        "title": "a k Bcc: all bc d",
        "text": "x\nk\r\nBcc: ally",
        "link": None,
    }
    mail = made.render_email(item({"k": "k\r\nBcc: all"}))
    assert mail is not None and mail.subject == "s k Bcc: all"
    assert one_line("\x00a\u00a0 b\u0085") == "a b"


@pytest.mark.parametrize(
    ("start", "link"),
    [
        ("javascript:", None),
        ("\x01 JavaScript:", None),
        ("data:", None),
        ("vbscript:", None),
        ("java\nscript:", "java script:x"),
        ("https://example.com/javascript:", "https://example.com/javascript:x"),
    ],
)
def test_script_links_are_removed(start: str, link: str | None) -> None:
    rendered = renderer(title="x", link="{{ body.u }}").render_texts(item({"u": start + "x"}))

    assert rendered is not None and rendered["link"] == link


@pytest.mark.parametrize(
    ("path", "link"),
    [
        ("/evil.example", None),
        ("\\evil.example", None),
        ("\x00/evil.example", None),
        ("\ufeff\\evil.example", None),
        ("\t/evil.example", "/ /evil.example"),
        ("mail/7", "/mail/7"),
        ("mail//7", "/mail//7"),
    ],
)
def test_body_cannot_turn_a_path_into_another_host(path: str, link: str | None) -> None:
    rendered = renderer(title="x", link="/{{ body.path }}").render_texts(item({"path": path}))

    assert rendered is not None and rendered["link"] == link


@pytest.mark.parametrize(
    ("url", "href"),
    [
        ("https://h/?a=1&b", "https://h/?a=1&amp;b"),
        ("javascript:alert(1)", ""),
        (" \x01JavaScript:alert(1)", ""),
        ("//evil.example", ""),
        ("", ""),
    ],
)
def test_html_of_an_email_gets_the_checked_link(url: str, href: str) -> None:
    aggregate = {"window": 1, "at_least": 2}
    email = {"subject": "{{ link }}", "html": '{{ count }}<a href="{{ link }}">'}
    made = renderer(title="x", link="{% if count %}{{ body.u }}{% endif %}", email=email, aggregate=aggregate)
    one = item({"u": url})

    mail = made.render_email(one)
    _, shared = made.render_shared_email([one, one], None, "", "")
    assert mail is not None and mail.html == f'1<a href="{href}">'
    assert shared == f'2<a href="{href}">'


def test_email_in_the_language_of_the_reader() -> None:
    entry = {**ENTRY, "email": {"html": "<p>{{ title }} {{ text }} {{ unsubscribe_url }}</p>"},
             "locales": {"it": {"title": "ecco {{ body.k }}", "email": {"subject": "S {{ title }}"}}}}  # fmt: skip
    made = renderer(**entry)

    assert made.render_email(item({"k": "<kb>", "by": "B"}), "it", "https://u/?a=1&b=2") == RenderedMail(
        "S ecco <kb>",
        "ecco <kb>\n\nBy B.\n\napp://<kb>",
        "<p>ecco &lt;kb&gt; By B. https://u/?a=1&amp;b=2</p>",
    )
    plain = renderer(title="x", email={}).render_email(item({}))
    assert plain == RenderedMail("x", "x", None)


def test_failed_rendering_is_reported_and_replaced() -> None:
    failures = Failures()
    bad = "{{ 1 / body.n }}"
    made = renderer(failures, title=bad, text=bad, link=bad, collapse=bad, email={"subject": bad, "html": bad})
    shown = item({"n": 0})

    assert made.render_texts(shown) == {"title": "User joined", "text": None, "link": None}
    assert made.render_email(shown) == RenderedMail("User joined", "User joined", None)
    assert made.collapse_key(shown) is None
    assert {(category, field) for category, field, _ in failures.reported} == {
        ("user.joined", field) for field in ("title", "text", "link", "subject", "html", "collapse")
    }
    assert all("division by zero" in reason for _, _, reason in failures.reported)


def test_empty_title_is_replaced() -> None:
    assert renderer(title="{{ body.k }}").render_texts(item({})) == {"title": "User joined", "text": None, "link": None}


def test_summary_uses_templates_about_many_items() -> None:
    aggregate = {"window": 1, "at_least": 2, "title": "{{ count }} joined"}
    one = renderer(**ENTRY, email={"html": "{{ body.k }}"}, aggregate=aggregate)
    many = renderer(
        title="x",
        text="{{ items | map(attribute='body.k') | join(', ') }} and {{ count - 2 }} more",
        email={"subject": "{{ count }}!"},
        aggregate={"window": 1, "at_least": 2},
    )

    assert one.render_texts(item(SUMMARY)) == {"title": "7 joined", "text": None, "link": None}
    assert one.render_email(item(SUMMARY)) == RenderedMail("7 joined", "7 joined", None)
    assert many.render_texts(item(SUMMARY)) == {"title": "User joined (7)", "text": "a, b and 5 more", "link": None}
    mail = many.render_email(item(SUMMARY))
    assert mail is not None and mail.subject == "7!"


def test_summary_body_needs_an_aggregating_type() -> None:
    rendered = renderer(title="{{ count }} {{ body.summary.count }}").render_texts(item(SUMMARY))

    assert rendered is not None and rendered["title"] == "1 7"


def test_collapse_key_is_one_line() -> None:
    assert renderer(collapse="a-{{ body.k }}").collapse_key(item({"k": "k\nb"})) == "a-k b"


def test_every_template_of_a_set_is_checked() -> None:
    bad = "one\n{{ body.x | uper }}"
    entry = {
        "title": bad,
        "text": bad,
        "link": bad,
        "collapse": bad,
        "email": {"subject": bad, "html": bad},
        "aggregate": {"title": bad},
        "locales": {"it": {"title": bad, "email": {"html": bad}}},
    }

    errors = check_templates({"a.b": entry, "c": {"title": "fine"}, "d": 5})

    assert [error.pointer for error in errors] == [
        *("/a.b/title", "/a.b/text", "/a.b/link", "/a.b/collapse", "/a.b/email/subject", "/a.b/email/html"),
        *("/a.b/aggregate/title", "/a.b/locales/it/title", "/a.b/locales/it/email/html"),
    ]
    assert {error.detail for error in errors} == {"line 2: Unknown filter uper; did you mean upper?"}
    assert check_templates([]) == check_templates({"a": {"title": 5, "locales": 7}}) == []


async def test_other_tasks_run_between_large_items() -> None:
    """25 items of 16 KiB took a quarter of a second in one piece."""
    made = renderer(title="{{ id }}")
    items = [
        (f"i{n}", b'{"category":"user.joined","for_device":null,"times":{"created":5},"body":"' + b"x" * 9_000 + b'"}')
        for n in range(25)
    ]
    turns = 0

    async def other() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    task = asyncio.create_task(other())
    await made.render_json_in_slices(items, "it", "alice")
    task.cancel()

    assert turns >= len(items)
