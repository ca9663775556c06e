"""Commands and programs in the tutorials and guides are valid as they are written."""

import ast
import importlib
import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from gregor.auth.device_tokens import TokenVerifier
from gregor.clock import SystemClock
from gregor.config.settings import load_settings
from gregor.core.json_text import canonical_json
from gregor.registries.category_files import read_checked, read_file
from tests.support.guide_commands import check_gregor

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def blocks_of(page: Path, language: str) -> list[str]:
    """The code blocks of one language."""
    return re.findall(rf"```{language}\n(.*?)```", page.read_text("utf-8"), re.DOTALL)


def command_lines() -> Iterator[tuple[str, str]]:
    """Yield page and line of each call of ``gregor`` in a shell block."""
    for page in PAGES:
        for line in "".join(blocks_of(page, "sh")).replace("\\\n", " ").splitlines():
            if re.match(r"(\.venv/bin/)?gregor ", line):
                yield str(page.relative_to(ROOT)), line


def arguments_of(line: str) -> list[str]:
    """The words after ``gregor``, without a comment and without ``&``."""
    return [word for word in shlex.split(line, comments=True)[1:] if word != "&"]


@pytest.mark.parametrize(("page", "line"), sorted(set(command_lines())))
def test_every_command_line_can_be_parsed(
    page: str, line: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "deploy").mkdir()
    for name in ("categories.toml", "deploy/categories.toml"):
        (tmp_path / name).write_text("")
    monkeypatch.chdir(tmp_path)
    check_gregor(arguments_of(line))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_python_block_compiles(page: Path) -> None:
    for block in blocks_of(page, "python"):
        compile(block, str(page), "exec")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_import_of_a_python_block_exists(page: Path) -> None:
    for block in blocks_of(page, "python"):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0].startswith("gregor"):
                module = importlib.import_module(node.module or "")
                assert [each.name for each in node.names if not hasattr(module, each.name)] == [], node.module


def test_bodies_of_sent_items_match_the_example_set() -> None:
    """A reader may have applied `deploy/categories.toml` before, in the tutorial "First push"."""
    entries = read_checked(read_file(ROOT / "deploy/categories.toml"))
    refused = {}
    for page, line in command_lines():
        words = arguments_of(line)
        if words[0] != "send" or not {"--category", "--body"} <= {*words}:
            continue
        schema = entries.resolve(words[words.index("--category") + 1]).body_schema
        body = json.loads(words[words.index("--body") + 1])
        if schema is not None and (errors := schema.errors(canonical_json(body), "/body")):
            refused[page, line] = errors

    assert refused == {}


def test_token_secrets_are_random() -> None:
    """A sentence in their place is long enough to pass as a strong secret."""
    lines = [line for page in PAGES for line in "".join(blocks_of(page, "sh")).splitlines()]
    values = {line.partition("GREGOR_TOKEN_SECRET=")[2] for line in lines if "GREGOR_TOKEN_SECRET=" in line}

    assert values == {'"$(openssl rand -base64 32)"'}


def test_nothing_installs_gregor_from_pypi() -> None:
    """The name `gregor` on PyPI belongs to another project: a deployment must not run its code."""
    from_pypi = re.compile(r"pip install[^\n`]* '?gregor(?:\[|['\"`\s]|$)")
    sources = [*PAGES, ROOT / "CHANGELOG.md", *(ROOT / "shared").rglob("*.py"), *(ROOT / "services").rglob("*.py")]

    assert [str(file) for file in sources if from_pypi.search(file.read_text("utf-8"))] == []


async def test_the_token_of_the_guide_is_accepted(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    environ = {"GREGOR_TOKEN_SECRET": "a-secret-of-the-login-service-0123456789"}
    monkeypatch.setenv("GREGOR_TOKEN_SECRET", environ["GREGOR_TOKEN_SECRET"])
    blocks = blocks_of(ROOT / "docs" / "how-to" / "integrate-a-backend.md", "python")
    [signing] = [block for block in blocks if "import jwt" in block]

    exec(compile(signing, "integrate-a-backend.md", "exec"), {})

    verifier = TokenVerifier(load_settings(environ))
    caller = await verifier.verify(capsys.readouterr().out.strip(), SystemClock().now_us())
    assert (caller.uid, caller.device) == ("alice", "phone")
