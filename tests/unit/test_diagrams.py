"""The diagrams of the documentation can be read by everybody: titles, descriptions, contrast, both color schemes."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

DOCS = Path(__file__).parents[2] / "docs"
DIAGRAMS = sorted((DOCS / "assets/diagrams").glob("*.svg"))
SVG = "{http://www.w3.org/2000/svg}"
MIN_CONTRAST = 4.5
"""WCAG 2.2, success criterion 1.4.3."""


def luminance(color: str) -> float:
    channels = [int(color[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    linear = [each / 12.92 if each <= 0.04045 else ((each + 0.055) / 1.055) ** 2.4 for each in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def fills(rules: str) -> dict[str, str]:
    """Return the fill of each selector."""
    found: dict[str, str] = {}
    for selectors, body in re.findall(r"^\s*([^{}@]+?) \{([^{}]*)\}", rules, re.MULTILINE):
        fill = re.search(r"(?<![\w-])fill: (#[0-9a-f]{6})", body)
        if fill:
            found |= dict.fromkeys(re.split(r",\s*", selectors), fill[1])
    return found


@pytest.mark.parametrize("path", DIAGRAMS, ids=lambda path: path.stem)
def test_diagram_has_a_title_and_a_description(path: Path) -> None:
    root = ElementTree.fromstring(path.read_text("utf-8"))
    title, description = (root.findtext(f"{SVG}{name}") or "" for name in ("title", "desc"))

    assert root.get("role") == "img" and root.get("aria-labelledby") == "title desc"
    assert title and len(description.split()) >= 20


@pytest.mark.parametrize("path", DIAGRAMS, ids=lambda path: path.stem)
def test_texts_have_contrast_in_both_schemes(path: Path) -> None:
    style = ElementTree.fromstring(path.read_text("utf-8")).findtext(f"{SVG}style") or ""
    light, _, dark = style.partition("@media (prefers-color-scheme: dark) {")
    schemes = {"light": fills(light), "dark": fills(light) | fills(dark)}

    for name, colors in schemes.items():
        backgrounds = [colors[each] for each in (".page", ".service", ".store", ".outside", ".note")]
        assert min(contrast(colors["text"], each) for each in backgrounds) >= MIN_CONTRAST, name
        assert min(contrast(colors[".detail"], each) for each in backgrounds) >= MIN_CONTRAST, name


def test_each_diagram_is_in_a_page_with_a_text() -> None:
    pages = "".join(page.read_text("utf-8") for page in DOCS.rglob("*.md"))
    shown = re.findall(r"!\[([^\]]+)\]\([./]*assets/diagrams/([\w-]+)\.svg\)", pages)

    assert sorted(name for _, name in shown) == [path.stem for path in DIAGRAMS]
    assert len(DIAGRAMS) >= 5 and all(len(text.split()) >= 10 for text, _ in shown)
