"""Every test that docs/security.md names exists; each line of the threat model has one."""

import ast
import re
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "security.md").read_text("utf-8")
TEST = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")
LINE = re.compile(r"^\| (\d+) \| (.+) \| (.+) \| (.+) \|$", re.MULTILINE)
LINES = 94


@cache
def names_in(file: str) -> frozenset[str]:
    path = ROOT / file
    tree = ast.parse(path.read_text("utf-8")) if path.exists() else ast.Module([], [])
    functions = (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))
    return frozenset(node.name for node in functions)


def test_named_tests_exist() -> None:
    named = TEST.findall(PAGE)

    assert len(named) > 100
    assert [f"{file}::{name}" for file, name in named if name not in names_in(file)] == []


def test_threat_model_is_complete() -> None:
    assert [int(number) for number, *_ in LINE.findall(PAGE)] == list(range(1, LINES + 1))


def test_each_threat_has_a_test() -> None:
    assert [number for number, _, _, tests in LINE.findall(PAGE) if not TEST.search(tests)] == []


def test_each_key_of_a_user_has_a_bound() -> None:
    table = PAGE.partition("### What a client can store")[2].partition("\n## ")[0]
    rows = [row.split(" | ") for row in table.splitlines() if row.startswith("| `")]
    keys = (ROOT / "shared/gregor/store/redis/keys.py").read_text("utf-8")
    kinds = set(re.findall(r"^``\{tag\}:(\w+):<(?:uid|hash)>", keys, re.MULTILINE))

    assert len(kinds) >= 20
    assert kinds - {name for row in rows for name in re.findall(r"`(\w+)`", row[0])} == set()
    assert [row[0] for row in rows if not TEST.search(row[-1])] == []
