"""The version of a file on disk. A new version of a secret or certificate must be read again."""

from __future__ import annotations

import os
from pathlib import Path

FileVersion = tuple[int, int, int, int] | None
"""Equal versions mean equal content; `None`: the file is missing or unreadable."""


def file_version(path: Path | str) -> FileVersion:
    """Return the version of a file. Symbolic links are followed: Kubernetes replaces secrets by changing a link."""
    try:
        found = os.stat(path)  # noqa: PTH116 - half the time of Path.stat, and it is called every second
    except OSError:
        return None
    # The time of the inode changes with its permissions, too: a file that becomes readable is read again.
    return found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns
