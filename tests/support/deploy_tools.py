"""The tools that check the files of deploy/: a test without its tool is skipped, and says what is not checked."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from gregor.dev.processes import end_with_parent

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
TOOLS = ROOT / ".deploy"
"""Filled by `.ci/deploy-tools`."""


def tool(name: str) -> str:
    """Return the path of a tool, or skip the test."""
    found = shutil.which(name, path=f"{TOOLS / 'bin'}:{os.environ['PATH']}:/usr/sbin:/sbin")
    if found is None:
        pytest.skip(f"not checked: no {name} here; run make test-deploy as root on Debian")
    return found


def output_of(
    command: Sequence[str], *, timeout_s: float = 240, status: int = 0, environ: Mapping[str, str] | None = None
) -> str:
    """Run a command that must end with a status. Returns what it printed on both streams."""
    done = subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, **(environ or {})},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=timeout_s,
        check=False,
        preexec_fn=end_with_parent(),
    )
    assert done.returncode == status, f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout[-4_000:]}"
    return done.stdout
