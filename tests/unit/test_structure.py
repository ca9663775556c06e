"""The size of what one reads: files and functions that fit in a head (architecture.md, "Habits")."""

import ast
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
MOST_LINES_OF_A_FILE = 400
MOST_LINES_OF_A_FUNCTION = {"shared": 40, "services": 40, "tests": 50}
VAGUE = {"utils", "util", "helpers", "helper", "manager", "common", "base", "misc"}


def sources(*suffixes: str) -> Iterator[Path]:
    for room in MOST_LINES_OF_A_FUNCTION:
        for suffix in suffixes:
            yield from sorted((ROOT / room).rglob(f"*{suffix}"))


def functions(path: Path) -> Iterator[tuple[str, int]]:
    """(name, lines without the docstring) of each function of a file: promises may be as long as they must."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            first = node.body[0]
            if ast.get_docstring(node) is not None and first.end_lineno is not None:
                lines -= first.end_lineno - first.lineno + 1
            yield node.name, lines


def test_no_file_is_longer_than_400_lines() -> None:
    lengths = {path: len(path.read_text("utf-8").splitlines()) for path in sources(".py", ".lua")}

    assert {str(path.relative_to(ROOT)): n for path, n in lengths.items() if n > MOST_LINES_OF_A_FILE} == {}


def test_no_function_is_longer_than_its_room_allows() -> None:
    too_long = {
        f"{path.relative_to(ROOT)}:{name}": lines
        for path in sources(".py")
        for name, lines in functions(path)
        if lines > MOST_LINES_OF_A_FUNCTION[path.relative_to(ROOT).parts[0]]
    }

    assert too_long == {}


def test_every_module_and_class_of_the_house_says_what_it_is() -> None:
    silent = []
    for path in sources(".py"):
        tree = ast.parse(path.read_text("utf-8"))
        named = [node for node in ast.walk(tree) if isinstance(node, ast.ClassDef) and not node.name.startswith("_")]
        inside_tests = path.relative_to(ROOT).parts[0] == "tests"
        nodes: list[ast.Module | ast.ClassDef] = [tree, *([] if inside_tests else named)]
        for node in nodes:
            if ast.get_docstring(node) is None:
                silent.append(f"{path.relative_to(ROOT)}:{getattr(node, 'name', 'module')}")

    assert silent == []


def test_no_module_has_a_name_that_could_hold_anything() -> None:
    assert [str(path) for path in sources(".py") if path.stem in VAGUE] == []


def test_every_dependency_is_documented_with_its_reason_and_locked() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    wanted = [*project["project"]["dependencies"], *project["dependency-groups"]["dev"]]
    names = {re.split(r"[\[<>=;!~ ]", line)[0] for line in wanted}
    documented = (ROOT / "docs" / "dependencies.md").read_text("utf-8")
    locked = set(re.findall(r"^([\w.-]+)==", (ROOT / "requirements.lock").read_text("utf-8"), re.MULTILINE))

    assert {name for name in names if not re.search(rf"`{re.escape(name)}[`\[]", documented)} == set()
    assert names - locked == set()


def test_the_lock_names_no_host() -> None:
    lock = (ROOT / "requirements.lock").read_text("utf-8")

    assert "://" not in lock
    assert "--index-url" not in lock
