"""Links in the pages of the project lead to files and sections that exist."""

import re
import unicodedata
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]
LINK = re.compile(r"\]\(([^)\s#]*)(?:#([^)\s]*))?[^)]*\)")


def prose_of(page: Path) -> str:
    """The text of a page without its code blocks."""
    return re.sub(r"```.*?```", "", page.read_text("utf-8"), flags=re.DOTALL)


def sections_of(page: Path) -> set[str]:
    """The anchors of a page, as MkDocs makes them."""
    headings = re.findall(r"^#+ (.+)$", prose_of(page), re.MULTILINE)
    return {anchor_of(heading) for heading in headings}


def anchor_of(heading: str) -> str:
    """The anchor of a heading, by the rule of Python-Markdown."""
    ascii_only = unicodedata.normalize("NFKD", heading).encode("ascii", "ignore").decode()
    return re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", ascii_only).strip().lower())


def links_of(page: Path) -> list[tuple[str, str]]:
    """Path and anchor of each link to another place of the project."""
    return [(path, anchor) for path, anchor in LINK.findall(prose_of(page)) if "://" not in path]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_to_a_file(page: Path) -> None:
    assert [path for path, _ in links_of(page) if not (page.parent / path).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_anchor_leads_to_a_section(page: Path) -> None:
    anchored = [(page.parent / path if path else page, anchor) for path, anchor in links_of(page) if anchor]

    assert [anchor for target, anchor in anchored if anchor not in sections_of(target)] == []


def test_every_page_is_in_the_navigation() -> None:
    navigation = (ROOT / "mkdocs.yml").read_text("utf-8")

    pages = [str(page.relative_to(ROOT / "docs")) for page in PAGES if page.is_relative_to(ROOT / "docs")]
    assert [page for page in pages if not re.search(rf"\b{re.escape(page)}$", navigation, re.MULTILINE)] == []
