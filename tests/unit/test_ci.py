"""The scripts of CI: no skipped check is silent, and `make test-deploy` has a bound of time."""

from __future__ import annotations

import os
import runpy
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def summary(directory: Path) -> list[str]:
    """Return the lines of `.ci/summary` for the logs in a directory."""
    done = subprocess.run([ROOT / ".ci/summary", directory], capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


def test_summary_lists_skipped_checks(tmp_path: Path) -> None:
    skipped = "SKIPPED [2] tests/support/deploy_tools.py:28: not checked: no podman here"
    (tmp_path / "deploy.log").write_text(
        f"..s\n{skipped}\nmake: test-deploy took 700 of at most 1200 seconds\n== 5 passed, 2 skipped in 9.1s ==\n"
    )
    (tmp_path / "browser.log").write_text("  ﹣ the story needs haproxy (0.1ms) # SKIP\n")
    (tmp_path / "bare.log").write_text(f"{skipped}\nRERUN tests/a.py::test_b\n== 9 passed in 8.0s ==\n")
    (tmp_path / "durations").write_text("ci: 12 s, 190.00 % of one core: make test\n")
    (tmp_path / "failed").write_text("ci: failed: make test\n")

    assert summary(tmp_path) == [
        "ci: skipped checks: 2",
        skipped,
        "﹣ the story needs haproxy (0.1ms) # SKIP",
        "ci: 12 s, 190.00 % of one core: make test",
        "ci: failed: make test",
        "RERUN tests/a.py::test_b",
        "make: test-deploy took 700 of at most 1200 seconds",
        "== 9 passed in 8.0s ==",
        "== 5 passed, 2 skipped in 9.1s ==",
    ]


def test_summary_without_skips_says_so(tmp_path: Path) -> None:
    (tmp_path / "bare.log").write_text("== 9 passed in 8.0s ==\n")

    assert summary(tmp_path) == ["ci: skipped checks: 0", "== 9 passed in 8.0s =="]


def test_bill_of_materials_names_gregor(tmp_path: Path) -> None:
    """`--pyproject` makes Gregor the component of the metadata. The tool of this test repeats its arguments."""
    tool = tmp_path / "cyclonedx-py"
    tool.write_text('#!/bin/sh\nfor file; do :; done\necho "$*" >"$file"\n')
    tool.chmod(0o755)
    audit = runpy.run_path(str(ROOT / ".ci/audit"))

    assert audit["sbom"](tmp_path, tmp_path / "out") == []

    arguments = (tmp_path / "out/sbom.json").read_text()
    assert "--pyproject pyproject.toml" in arguments and "requirements-server.lock" in arguments


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A directory in which `make test-deploy` runs a stub instead of pytest. It fails if ARGS says so."""
    for name in ("requirements.lock", "pyproject.toml"):
        (tmp_path / name).touch()
    python = 'case "$*" in *fail) exit 3 ;; *) echo 3.11 ;; esac'
    scripts = {".ci/deploy-tools": "true", ".venv/bin/python": python}
    for name, body in scripts.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"#!/bin/sh\n{body}\n")
        path.chmod(0o755)
    (tmp_path / ".venv/.installed-3.11").touch()
    return tmp_path


@pytest.mark.parametrize(
    ("given", "status", "said"),
    [
        ((), 0, "of at most 1200 seconds"),
        (("ARGS=fail",), 2, "of at most 1200 seconds"),
        (("DEPLOY_SECONDS=-1",), 2, "make: test-deploy took too long"),
    ],
)
def test_deploy_checks_have_a_bound_of_time(checkout: Path, given: tuple[str, ...], status: int, said: str) -> None:
    command = ["make", "-f", str(ROOT / "Makefile"), "PYTHON=.venv/bin/python", "VERSION=3.11", "test-deploy", *given]

    done = subprocess.run(command, cwd=checkout, capture_output=True, text=True, check=False)

    assert done.returncode == status, done.stderr
    assert said in done.stderr


@pytest.fixture
def audit_tools(tmp_path: Path) -> Path:
    """The tools of `make audit` as stubs that find nothing. `pip-audit` cannot reach its service."""
    tools = tmp_path / "bin"
    tools.mkdir()
    scripts = {
        "pip-audit": "echo 'Traceback:' >&2; echo 'ConnectionError: https://me:pw@proxy: timed out' >&2; exit 1",
        "detect-secrets": """echo '{"results": {}}'""",
        "zizmor": "echo '[]'",
        "cyclonedx-py": 'for last; do :; done; echo {} >"$last"',
    }
    for name, body in scripts.items():
        (tools / name).write_text(f"#!/bin/sh\n{body}\n")
        (tools / name).chmod(0o755)
    return tools


@pytest.mark.parametrize(("strict", "status"), [("0", 0), ("1", 1)])
def test_unchecked_step_of_the_audit_has_a_reason(audit_tools: Path, strict: str, status: int) -> None:
    command = [ROOT / ".ci/audit", audit_tools, audit_tools.parent]
    environment = {**os.environ, "STRICT": strict}

    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)

    reason = "NOT CHECKED: ConnectionError: https://…@proxy: timed out"
    assert done.stdout.splitlines() == [
        f"audit: vulnerabilities of the services: {reason}",
        f"audit: vulnerabilities of the development: {reason}",
        "audit: secrets: ok",
        "audit: workflows: ok",
        f"audit: sbom ({audit_tools.parent.name}/sbom.json): ok",
    ]
    assert done.returncode == status


def test_package_that_was_not_looked_up_is_not_ok(audit_tools: Path) -> None:
    skipped = '{"dependencies": [{"name": "a", "skip_reason": "not found"}]}'
    (audit_tools / "pip-audit").write_text(f"#!/bin/sh\necho '{skipped}'\n")

    done = subprocess.run(
        [ROOT / ".ci/audit", audit_tools, audit_tools.parent], capture_output=True, text=True, check=True
    )

    assert done.stdout.startswith("audit: vulnerabilities of the services: NOT CHECKED: a: not found\n")
