"""The fake providers in a separate process, and the messages that arrived there."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gregor.dev.processes import end_with_parent
from tests.support.cluster import ROOT


@dataclass
class FakeProviders:
    """Settings of the fakes and a line for each push or mail that arrived (`gregor.dev.fakes.__main__`).

    `subscription`: of a browser that the fake Web Push service knows.
    """

    settings: dict[str, str]
    subscription: dict[str, Any] = field(default_factory=dict)
    arrived: list[dict[str, Any]] = field(default_factory=list)

    def titles(self) -> list[str]:
        """Return the titles of all messages, in order."""
        return [line["title"] for line in self.arrived]

    def of(self, user: str) -> list[dict[str, Any]]:
        """Return the lines of one user, in order."""
        return [line for line in self.arrived if line["user"] == user]

    def options(self, *names: str) -> dict[str, Any]:
        """Return the settings for a `Cluster` that begin with `names`, such as `APNS`."""
        found = {name.removeprefix("GREGOR_"): value for name, value in self.settings.items()}
        return {name: value for name, value in found.items() if name.startswith(names)}


@contextmanager
def running(directory: Path) -> Iterator[FakeProviders]:
    """Run the fakes until the end of the block."""
    command = [sys.executable, "-m", "gregor.dev.fakes", str(directory)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT, preexec_fn=end_with_parent()
    ) as process:
        assert process.stdout is not None and process.stdin is not None
        told = json.loads(process.stdout.readline())
        found = FakeProviders(told["settings"], told["subscription"])
        lines = process.stdout
        reader = threading.Thread(target=lambda: found.arrived.extend(map(json.loads, lines)))
        reader.start()
        yield found
        process.stdin.close()
        reader.join()
