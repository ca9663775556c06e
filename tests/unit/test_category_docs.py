"""The pages about notification types match the code, and their example works."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from gregor.core.categories.fields import CATEGORY_FIELDS
from gregor.core.json_text import canonical_json
from gregor.registries.category_files import read_checked, read_file
from gregor.rendering.filters import FILTERS
from gregor.rendering.renderer import Renderer, TemplateItem
from gregor.rendering.sandbox import VARIABLES

EXAMPLES = Path(__file__).parents[2] / "deploy" / "categories.toml"
DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "reference" / "categories.md").read_text("utf-8")
GUIDE = (DOCS / "how-to" / "notification-types.md").read_text("utf-8")
EXAMPLE = GUIDE.partition("```toml\n")[2].partition("```")[0]


def test_example_entry_has_ten_lines_and_renders() -> None:
    entries = read_checked(tomllib.loads(EXAMPLE))
    policy = entries.resolve("invoice.due")

    assert len([line for line in EXAMPLE.splitlines() if line]) == 10
    assert policy.push is not None and policy.email is not None and policy.remind_after_us
    body = {"number": "7", "amount": "€ 20", "to": "Bob"}
    assert Renderer(entries).render_texts(TemplateItem("aa", "invoice.due", body, 5), "it-IT") == {
        "title": "La fattura 7 è in scadenza",
        "text": "€ 20 to Bob.",
        "link": "app://invoices/7",
    }


@pytest.mark.parametrize(
    ("category", "body", "title"),
    [
        ("user.joined", {"social_media_name": "bob@twitter", "keybase": "kbob"}, "kbob just joined"),
        ("follow", {"follower": "max"}, "max follows you"),
        ("followee.proof_broke", {"username": "max", "service": "twitter"}, "A proof of max broke"),
        ("followee.new_key", {"username": "max"}, "max added a key"),
        ("followee.proof_upgraded", {"username": "max"}, "max upgraded their proofs"),
        ("invite.code", {"social_media_name": "bob@twitter", "code": "c0de"}, "Send bob@twitter an invite code"),
    ],
)
def test_example_set_renders_each_title(category: str, body: dict[str, str], title: str) -> None:
    entries = read_checked(read_file(EXAMPLES))
    schema = entries.resolve(category).body_schema

    texts = Renderer(entries).render_texts(TemplateItem("aa", category, body, 5))

    assert category in entries.named and texts is not None and texts["title"] == title
    assert schema is None or schema.errors(canonical_json(body), "/body") == []


def test_table_of_fields_matches_the_code() -> None:
    table = PAGE.partition("## The fields")[2].partition("## Templates")[0]

    assert re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE) == list(CATEGORY_FIELDS)


def test_variables_and_filters_match_the_code() -> None:
    text = PAGE.partition("## Templates")[2].partition("## Over HTTP")[0]
    filters = set(re.findall(r"`(\w+)`", text.partition("Filters:")[2].partition("`{{")[0]))
    variables = set(re.findall(r"^`id`.*?(?=\n\n)", text, re.MULTILINE | re.DOTALL)[0].replace("`", " ").split())

    assert filters == {name for name in FILTERS if not name.startswith(" ")}
    assert variables >= VARIABLES
