"""Sizes of packages, files and functions, import cycles, packaging (docs/architecture.md)."""

import ast
import re
import statistics
import tomllib
import warnings
from collections import Counter
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import pytest

from tests.support.imports import cycles, import_graph

ROOT = Path(__file__).parents[2]
MAX_FUNCTION_LINES = {"shared": 40, "services": 40, "tests": 50}
MAX_P90_FUNCTION_LINES = 20
MAX_FILE_LINES = 600
MAX_MODULES = 12
LARGER_PACKAGES = {
    "shared/gregor/cli/commands": "one module for each group of commands",
    "shared/gregor/reference/store": "one module for each protocol of gregor.store.contract",
}
"""Packages with 13 to 15 modules, each with its reason."""
VAGUE = {"utils", "util", "helpers", "helper", "manager", "common", "base", "misc"}
WHEEL_NAMES = {"gregor", "gregor_ingest", "gregor_gateway", "gregor_scheduler", "gregor_delivery"}


def sources(*folders: str) -> Iterator[Path]:
    for folder in folders or MAX_FUNCTION_LINES:
        yield from sorted((ROOT / folder).rglob("*.py"))


def functions(path: Path) -> Iterator[tuple[str, int]]:
    """Yield the name and the length of each function of a file; the docstring does not count."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            first = node.body[0]
            if ast.get_docstring(node) is not None and first.end_lineno is not None:
                lines -= first.end_lineno - first.lineno + 1
            yield node.name, lines


@pytest.mark.filterwarnings("default:.*lines, consider")
def test_long_files_are_reported() -> None:
    long = {
        path.relative_to(ROOT): n
        for path in sources()
        if (n := len(path.read_text("utf-8").splitlines())) > MAX_FILE_LINES
    }

    for path, lines in long.items():
        warnings.warn(f"{path}: {lines} lines, consider whether it holds more than one concept", stacklevel=1)
    assert all(lines < 2 * MAX_FILE_LINES for lines in long.values())


def test_functions_are_short() -> None:
    too_long = {
        f"{path.relative_to(ROOT)}:{name}": lines
        for path in sources()
        for name, lines in functions(path)
        if lines > MAX_FUNCTION_LINES[path.relative_to(ROOT).parts[0]]
    }
    lengths = [lines for path in sources("shared", "services") for _, lines in functions(path)]

    assert too_long == {}
    assert statistics.quantiles(lengths, n=10)[-1] <= MAX_P90_FUNCTION_LINES


def test_packages_are_small() -> None:
    sizes = Counter(
        str(path.parent.relative_to(ROOT)) for path in sources("shared", "services") if path.name != "__init__.py"
    )
    too_large = {
        package: size for package, size in sizes.items() if size > (15 if package in LARGER_PACKAGES else MAX_MODULES)
    }

    assert too_large == {}


def test_no_import_cycles() -> None:
    """Imports under TYPE_CHECKING count, too: they are the same knowledge, in disguise."""
    assert cycles(import_graph()) == []


def test_reference_modules_say_that_they_never_run_in_production() -> None:
    silent = [
        str(path.relative_to(ROOT))
        for path in (ROOT / "shared" / "gregor" / "reference").rglob("*.py")
        if "never runs in production" not in path.read_text("utf-8").partition("\n\n")[0]
    ]

    assert silent == []


def test_every_module_and_public_class_has_a_docstring() -> None:
    silent = []
    for path in sources():
        tree = ast.parse(path.read_text("utf-8"))
        named = [node for node in ast.walk(tree) if isinstance(node, ast.ClassDef) and not node.name.startswith("_")]
        inside_tests = path.relative_to(ROOT).parts[0] == "tests"
        nodes: list[ast.Module | ast.ClassDef] = [tree, *([] if inside_tests else named)]
        for node in nodes:
            if ast.get_docstring(node) is None:
                silent.append(f"{path.relative_to(ROOT)}:{getattr(node, 'name', 'module')}")

    assert silent == []


OUTGOING = "shared/gregor/net/outgoing/"
MAKERS = {
    "create_default_context": {
        OUTGOING + "tls.py",
        "shared/gregor/redis/url.py",  # Redis is trusted
        "shared/gregor/dev/fakes/tls.py",  # of a server
        "shared/gregor/cli/doctor/host_findings.py",  # makes no connection
    },
    "SSLContext": set(),
    "AsyncClient": {OUTGOING + "http_clients.py"},
    "Client": {"shared/gregor/blocking_http.py"},
}
"""Functions that make TLS contexts and HTTP clients, and the modules that may call them."""


def test_contexts_and_http_clients_have_one_origin() -> None:
    """Other contexts and clients would have none of the limits for hostile servers."""
    callers: dict[str, set[str]] = {name: set() for name in MAKERS}
    for path in sources("shared", "services"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            function = node.func if isinstance(node, ast.Call) else None
            name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
            if name in MAKERS:
                callers[name].add(str(path.relative_to(ROOT)))

    assert callers == MAKERS


def test_no_vague_module_names() -> None:
    assert [str(path) for path in sources() if path.stem in VAGUE] == []


def test_wheel_contains_only_our_packages() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    packages = project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]

    assert {Path(package).name for package in packages} == WHEEL_NAMES


def test_every_dependency_is_documented_and_locked() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    wanted = [*project["project"]["dependencies"], *chain(*project["dependency-groups"].values())]
    wanted += [line for extra in project["project"]["optional-dependencies"].values() for line in extra]
    names = {re.split(r"[\[<>=;!~ ]", line)[0] for line in wanted if isinstance(line, str)} - {"gregor"}
    documented = (ROOT / "docs" / "dependencies.md").read_text("utf-8")
    locked = set(re.findall(r"^([\w.-]+)==", (ROOT / "requirements.lock").read_text("utf-8"), re.MULTILINE))

    assert {name for name in names if not re.search(rf"`{re.escape(name)}[`\[]", documented)} == set()
    assert names - locked == set()


def test_server_lock_has_only_what_the_services_need() -> None:
    """Its versions are those of requirements.lock, with which the tests ran."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["server"]]
    names = {re.split(r"[\[<>=;!~ ]", line)[0] for line in wanted}
    server, full = locked_in("requirements-server.lock"), locked_in("requirements.lock")

    assert names <= {name for name, _ in server} and server < full
    assert not {"pytest", "hypothesis", "mypy", "ruff", "uv", "schemathesis"} & {name for name, _ in server}


def locked_in(lock: str) -> set[tuple[str, str]]:
    """Return the names and versions in a lock file."""
    return set(re.findall(r"^([\w.-]+)==([^ ;\\]+)", (ROOT / lock).read_text("utf-8"), re.MULTILINE))


def test_image_builds_with_tested_versions() -> None:
    assert locked_in("requirements-build.lock") < locked_in("requirements.lock")
    assert "hatchling" in {name for name, _ in locked_in("requirements-build.lock")}


@pytest.mark.parametrize("name", sorted(path.name for path in ROOT.glob("requirements*.lock")))
def test_lock_names_no_host(name: str) -> None:
    lock = (ROOT / name).read_text("utf-8")

    assert "://" not in lock
    assert "--index-url" not in lock
    assert lock.count("--hash=sha256:") >= len(locked_in(name))


def test_workflow_actions_are_pinned_by_hash() -> None:
    uses = re.findall(r"uses: *(\S+)", "".join(f.read_text("utf-8") for f in (ROOT / ".github").rglob("*.yml")))

    assert uses
    assert [action for action in uses if not re.fullmatch(r"[\w/-]+@[0-9a-f]{40}", action)] == []
