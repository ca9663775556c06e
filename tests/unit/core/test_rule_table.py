"""The table "Where each rule lives" of semantics.md names files and functions that exist, and they name the table."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
PAGE = ROOT.joinpath("docs", "semantics.md").read_text("utf-8")
TABLE = PAGE.partition("## Where each rule lives")[2].partition("\n## ")[0]
PLACES = re.findall(r"`((?:shared|services)/[\w/]+\.(?:py|lua))`(?: \(`(\w+)`\))?", TABLE)


def names_in(path: Path) -> set[str]:
    """Return the functions, methods and classes of a Python file, or the functions of a Lua file."""
    source = path.read_text("utf-8")
    if path.suffix == ".lua":
        return set(re.findall(r"function (\w+)", source))
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    return {node.name for node in ast.walk(ast.parse(source)) if isinstance(node, kinds)}


def test_table_is_not_empty() -> None:
    assert len(PLACES) >= 20


@pytest.mark.parametrize(("file", "name"), sorted(set(PLACES)))
def test_named_function_exists(file: str, name: str) -> None:
    path = ROOT / file

    assert path.is_file()
    assert not name or name in names_in(path)


@pytest.mark.parametrize("file", sorted({file for file, _ in PLACES}))
def test_named_file_refers_to_the_table(file: str) -> None:
    assert 'semantics.md, "Where each rule lives"' in re.sub(
        r"\s+(?:-- )?", " ", ROOT.joinpath(file).read_text("utf-8")
    )
