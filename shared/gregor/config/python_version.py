"""Finds a Python without the security fixes that a deployment of Gregor needs (docs/security.md, "Python")."""

from __future__ import annotations

from typing import Final

PATCHED: Final = {(3, 11): 10, (3, 12): 6, (3, 13): 0}
"""The first patch release of each minor version with the fixes of CVE-2024-7592 and CVE-2024-4032."""
PYTHON_FIX: Final = "install a newer patch release; see docs/security.md"


def unpatched_python(version: tuple[int, int, int]) -> str | None:
    """Return the reason why this Python should be replaced, or ``None`` if it has the fixes."""
    major, minor, patch = version
    if patch >= PATCHED.get((major, minor), 0):
        return None
    fixed = f"{major}.{minor}.{PATCHED[major, minor]}"
    return f"Python {major}.{minor}.{patch} has CVE-2024-7592 and CVE-2024-4032, fixed in {fixed}"
