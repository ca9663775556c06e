"""docs/reference/cli.md lists every command and only options that exist."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer.main

from gregor.cli.app import app

PAGE = (Path(__file__).parents[2] / "docs" / "reference" / "cli.md").read_text("utf-8")


def commands(command: Any, name: str = "gregor") -> Iterator[tuple[str, Any]]:
    """Yield each command below ``command`` with its full name."""
    children = getattr(command, "commands", None)
    if children is None:
        yield name, command
        return
    for child_name, child in children.items():
        yield from commands(child, f"{name} {child_name}")


def test_every_command_is_documented() -> None:
    names = [name for name, _ in commands(typer.main.get_command(app))]

    assert [name for name in names if not re.search(rf"`{name}[ `]", PAGE)] == []


def test_every_documented_option_exists() -> None:
    options = {
        option
        for _, command in commands(typer.main.get_command(app))
        for parameter in command.params
        for option in parameter.opts
    }

    assert set(re.findall(r"--[a-z][a-z-]+", PAGE)) - options - {"--help"} == set()
