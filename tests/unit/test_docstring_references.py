"""References from docstrings and comments to the documentation lead to pages and sections that exist."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from tests.support.language import ROOT, Text, python_files, texts_of

DOCS = ROOT / "docs"
PAGE = re.compile(r"(?<![\w/.-])((?:[\w-]+/)*[\w-]+\.md)(?:[,:]?\s+((?:\"[^\"]+\"(?:,\s+)?)+))?")
"""A page, and the sections in quotes that may follow: ``semantics.md, "Aggregation"``."""


def headings(page: Path) -> set[str]:
    return {line.lstrip("#").strip() for line in page.read_text("utf-8").splitlines() if line.startswith("#")}


def documented() -> dict[str, list[Path]]:
    """Return the pages by name: those of ``docs`` and of the project root."""
    pages: dict[str, list[Path]] = {}
    for page in (*DOCS.rglob("*.md"), *ROOT.glob("*.md")):
        pages.setdefault(page.name, []).append(page)
    return pages


def broken(text: Text, pages: dict[str, list[Path]]) -> Iterator[str]:
    """Yield each reference of a text whose page or section does not exist."""
    for found in PAGE.finditer(text.text):
        path, sections = found[1], re.findall(r'"([^"]+)"', found[2] or "")
        candidates = [page for page in pages.get(Path(path).name, []) if page.as_posix().endswith(path)]
        if not candidates:
            yield f"{text.path.relative_to(ROOT)}:{text.line}: {path} does not exist"
            continue
        known = set().union(*map(headings, candidates))
        for section in sections:
            name = " ".join(section.split())
            if not any(
                heading == name or heading.startswith(f"{name} ") or heading.endswith(name) for heading in known
            ):
                yield f'{text.path.relative_to(ROOT)}:{text.line}: {path} has no section "{name}"'


def test_referenced_pages_and_sections_exist() -> None:
    pages = documented()
    paths = [*python_files("shared", "services", "tests"), *sorted((ROOT / "shared").rglob("*.lua"))]
    texts = [text for path in paths for text in texts_of(path) if text.kind in ("docstring", "comment")]

    assert [line for text in texts for line in broken(text, pages)] == []
