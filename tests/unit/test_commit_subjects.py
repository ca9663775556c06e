"""The hook that checks commit subjects (CONTRIBUTING.md, "Commits")."""

import subprocess
from pathlib import Path

import pytest

HOOK = Path(__file__).parents[2] / ".githooks" / "commit-msg"


def run_hook(directory: Path, message: str) -> subprocess.CompletedProcess[str]:
    file = directory / "message"
    file.write_text(message, "utf-8")
    return subprocess.run([str(HOOK), str(file)], capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    "subject",
    [
        "gateway: close slow consumers",
        "store/lua: name the keys of the commit script",
        "docs: explain intervals\n\nA body may have longer lines, and sentences with a full stop.",
        "Merge branch 'main' into topic",
        "docs: " + "x" * 66,
    ],
)
def test_accepts_area_and_imperative(tmp_path: Path, subject: str) -> None:
    done = run_hook(tmp_path, subject)

    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("subject", "reason"),
    [
        ("Close slow consumers", "must be 'area: imperative'"),
        ("gateway:close slow consumers", "must be 'area: imperative'"),
        ("", "must be 'area: imperative'"),
        ("docs: " + "x" * 67, "73 characters, at most 72"),
        ("gateway: close slow consumers.", "without a full stop"),
    ],
)
def test_refuses_other_subjects_with_the_reason(tmp_path: Path, subject: str, reason: str) -> None:
    done = run_hook(tmp_path, subject)

    assert done.returncode == 1
    assert reason in done.stderr
