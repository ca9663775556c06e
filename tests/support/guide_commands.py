"""The commands in guides: those of shell blocks, and those in backticks; and the check that their names exist."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Final

import typer.main
import yaml  # type: ignore[import-untyped]

from gregor.cli.app import app
from tests.support.api import Api

ROOT: Final = Path(__file__).parents[2]
SERVICES: Final = ("ingest", "gateway", "scheduler", "delivery")
OTHER_PATHS: Final = ("/healthz", "/readyz", "/metrics", "/v1/connect", "/v1/stream", "/v1/poll", "/v1/frames")
"""Of the admin ports and of the gateway, which are not in the OpenAPI document."""
VERBS: Final = {
    "kubectl": frozenset(["apply", "create", "delete", "describe", "exec", "get", "logs", "rollout", "scale", "top"]),
    "helm": frozenset(["install", "rollback", "uninstall", "upgrade"]),
    # Only what podman-compose has too: it has no `cp`.
    "docker compose": frozenset(
        ["build", "down", "exec", "kill", "logs", "ps", "restart", "run", "start", "stop", "up"]
    ),
    "systemctl": frozenset(["daemon-reload", "enable", "restart", "start", "status", "stop"]),
}
_TOOL: Final = re.compile(r"(?:gregor|kubectl|helm|docker compose|systemctl|journalctl|make|curl) \S")
_PARTS: Final = re.compile(r"""'[^']*'|"[^"]*"|&&|\|\||[;|&]|[^'"&|;]+""")
_SEPARATOR: Final = re.compile(r"&&|\|\||[;|&]")


# ---- finding commands


def shell_commands(text: str) -> Iterator[str]:
    """Yield the commands of the shell blocks of a page that begin with one of the known tools."""
    for indent, block in re.findall(r"^( *)```sh\n(.*?)^ *```", text, re.DOTALL | re.MULTILINE):
        pending = ""
        for line in re.sub(rf"^{indent}", "", block, flags=re.MULTILINE).replace("\\\n", " ").splitlines():
            pending += line
            try:
                shlex.split(pending, comments=True)
            except ValueError:  # a quoted text goes on in the next line
                pending += "\n"
                continue
            yield from (found for found in _split(pending) if _TOOL.match(found))
            pending = ""


def inline_commands(text: str) -> Iterator[str]:
    """Yield the commands in backticks that begin with one of the known tools."""
    prose = re.sub(r"^( *)```.*?^\1```", "", text, flags=re.DOTALL | re.MULTILINE)
    yield from (found for found in re.findall(r"`([^`\n]+)`", prose) if _TOOL.match(found))


def inline_endpoints(text: str) -> Iterator[tuple[str, str]]:
    """Yield method and path of each endpoint in backticks, such as ``POST /v1/flush``."""
    yield from re.findall(r"`(GET|POST|PUT|PATCH|DELETE) (/v1/[^`\s?]*)[^`]*`", text)


def _split(line: str) -> Iterator[str]:
    """Yield the simple commands of a line, without redirections, comments and the words of a loop."""
    found = ""
    for part in _PARTS.findall(line):
        if _SEPARATOR.fullmatch(part):
            yield found.strip().removeprefix("do ")
            found = ""
        else:
            found += part if part[0] in "'\"" else re.sub(r"\s[<>]+ ?\S+|(^|\s)#.*", " ", part)
    yield found.strip().removeprefix("do ")


# ---- checking them


def check_command(command: str, *, is_complete: bool = True) -> None:
    """Raise AssertionError if a command uses a name that does not exist.

    ``is_complete``: false for a command that a sentence only names, without its arguments.
    """
    words = shlex.split(command, comments=True)
    tool = "docker compose" if words[:2] == ["docker", "compose"] else words[0]
    words = words[len(tool.split()) :]
    if "--" in words:
        inner = words[words.index("--") + 1 :]
        words = words[: words.index("--")]
        if inner[:2] == ["sh", "-c"]:  # 'NAME=$(cat) exec gregor …'
            inner = [word for word in shlex.split(inner[2]) if word != "exec" and not re.match(r"[A-Z_]+=", word)]
        check_command(shlex.join(inner), is_complete=is_complete)
    if tool in VERBS:
        assert any(word in VERBS[tool] for word in words), f"{command}: no known verb of {tool}"
    {
        "gregor": lambda: check_gregor(words, is_complete=is_complete),
        "kubectl": lambda: _check_workloads(words),
        "helm": lambda: _check_files(words),
        "docker compose": lambda: _check_compose(words, is_complete=is_complete),
        "systemctl": lambda: _check_units(words),
        "journalctl": lambda: _check_units(words),
        "make": lambda: _check_targets(words),
        "curl": lambda: _check_urls(words),
    }[tool]()


def check_gregor(words: Sequence[str], *, is_complete: bool = True) -> None:
    """Parse the arguments of ``gregor``, and fail if they are wrong, or missing although the command is complete."""
    command: Any = typer.main.get_command(app)
    rest = list(words)
    while hasattr(command, "commands"):
        default = getattr(command, "default", None)
        is_named = bool(rest) and rest[0] in command.commands
        assert is_named or default is not None or (not rest and not is_complete), f"gregor {' '.join(words)}"
        if not is_named and default is None:
            return  # a group of commands
        command = command.commands[rest.pop(0) if is_named else default]
    try:
        command.make_context("gregor", rest)
    except Exception as error:  # typer has its own copy of click, whose errors are not public
        if is_complete or type(error).__name__ != "MissingParameter":
            raise AssertionError(f"gregor {' '.join(words)}: {error}") from error


def check_endpoint(method: str, path: str) -> None:
    """Fail unless the OpenAPI document has the method of this path. Paths of the gateway are only known by name."""
    if path in OTHER_PATHS:
        return
    for template, operations in _endpoints().items():
        pattern = re.sub(r"\\\{\w+\\\}", r"[^/]+", re.escape(template))
        if re.fullmatch(pattern, path) and method.lower() in operations:
            return
    raise AssertionError(f"{method} {path} is not in the OpenAPI document")


@cache
def _endpoints() -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = Api().app.openapi()["paths"]
    return found


def _check_workloads(words: Sequence[str]) -> None:
    names = {f"{kind}/gregor-{service}" for kind in ("deploy", "deployment") for service in SERVICES}
    named = {word for word in words if re.match(r"(deploy|deployment|statefulset|pod)/", word)}
    assert named <= names, f"not in the chart: {named - names}"


def _check_files(words: Sequence[str]) -> None:
    missing = [word for word in words if word.startswith("deploy/") and not (ROOT / word).exists()]
    assert missing == []


def _check_compose(words: Sequence[str], *, is_complete: bool) -> None:
    services = yaml.safe_load((ROOT / "deploy/compose/compose.yaml").read_text("utf-8"))["services"]
    verb = next(place for place, word in enumerate(words) if word in VERBS["docker compose"])
    given = list(words[verb + 1 :])
    rest: list[str] = []
    while given:
        word = given.pop(0)
        if not rest and word in ("--env", "--name", "--signal", "--user"):
            given.pop(0)
        elif rest or not word.startswith(("-", "$")):
            rest.append(word)
    if words[verb] in ("run", "exec"):
        assert rest and rest[0] in services, f"not a service of compose.yaml: {rest[:1]}"
        if words[verb] == "run" and rest[1:] and rest[0] in (*SERVICES, "admin", "canary"):
            check_gregor(rest[1:], is_complete=is_complete)
        return
    unknown = {word.partition("=")[0] for word in rest if not word.startswith(("-", "$"))} - set(services)
    assert not unknown, f"not services of compose.yaml: {unknown}"


def _check_units(words: Sequence[str]) -> None:
    files = {path.name for path in (ROOT / "deploy/systemd").iterdir()}
    instance = re.compile(rf"gregor@({'|'.join((*SERVICES, 'canary'))})(-\d+)?(\.service)?|gregor@(\$service|\*)")
    unknown = {word for word in words if word.startswith("gregor") and not instance.fullmatch(word)} - files
    assert not unknown, f"not in deploy/systemd: {unknown}"


def _check_targets(words: Sequence[str]) -> None:
    targets = re.findall(r"^([a-z-]+):.*## ", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)
    assert {word for word in words if "=" not in word and not word.startswith("-")} <= set(targets)


def _check_urls(words: Sequence[str]) -> None:
    method = next((words[place + 1] for place, word in enumerate(words) if word in ("-X", "--request")), "")
    sends_body = any(word in ("-d", "--data", "--json") for word in words)
    for word in words:
        path = re.search(r"://[^/]+(/[^?\s]*)", word)
        if path is not None:
            check_endpoint(method or ("POST" if sends_body else "GET"), path[1])
