"""Files and names in the glossary, in architecture.md and in the table of rules of semantics.md exist."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = ("glossary.md", "architecture.md", "semantics.md")
FILE = re.compile(r"`((?:shared|services|clients|tests|deploy)/[\w./*-]+)`(?: \(`(\w+)`\))?")


def text_of(page: str) -> str:
    return (ROOT / "docs" / page).read_text("utf-8")


@pytest.mark.parametrize("page", PAGES)
def test_named_files_exist(page: str) -> None:
    missing = [path for path, _ in FILE.findall(text_of(page)) if not list(ROOT.glob(path))]

    assert missing == []


@pytest.mark.parametrize("page", PAGES)
def test_names_exist_in_their_file(page: str) -> None:
    missing = [
        f"{path}: {name}"
        for path, name in FILE.findall(text_of(page))
        if name and not re.search(rf"\b{name}\b", (ROOT / path).read_text("utf-8"))
    ]

    assert missing == []


def test_each_glossary_row_names_a_file() -> None:
    rows = re.findall(r"^\| (?!term|---|on the wire)[^|]+\|[^|]+\|[^|]+\|$", text_of("glossary.md"), re.MULTILINE)

    assert len(rows) > 80
    assert [row for row in rows if not FILE.search(row)] == []
