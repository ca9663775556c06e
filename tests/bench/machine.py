"""The machine under a benchmark: which core does what, and what a process has used of it (/proc)."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

_TICK_S = 1 / os.sysconf("SC_CLK_TCK")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
CORES = sorted(os.sched_getaffinity(0))
UNDER_TEST = {CORES[0]}
"""Where the process under test runs, alone as far as that can be had."""
BESIDE = {CORES[-1]}
"""Where the load, and whatever else the test needs, runs."""


def pin(pid: int, cores: set[int]) -> None:
    """Bind a process, all its threads, to cores."""
    for thread in Path(f"/proc/{pid}/task").iterdir():
        with suppress(ProcessLookupError):
            os.sched_setaffinity(int(thread.name), cores)


def cpu_s(pid: int) -> float:
    """Seconds of CPU that a process has used so far, in user and kernel mode; in steps of 10 ms."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) * _TICK_S


def rss_bytes(pid: int) -> int:
    """Bytes of memory that a process holds."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE_BYTES


def allow_many_sockets() -> int:
    """Raise the number of open files to what the system allows, for us and our children; that number."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    return most


def run_load(module: str, job: dict[str, Any], timeout_s: float = 600) -> dict[str, Any]:
    """Run `python -m <module>` on the core of the load, the job on its standard input; the JSON that it prints."""
    done = subprocess.run(
        [sys.executable, "-m", module],
        input=json.dumps(job),
        capture_output=True,
        text=True,
        timeout=timeout_s,
        preexec_fn=lambda: os.sched_setaffinity(0, BESIDE),
    )
    if done.returncode != 0:
        raise RuntimeError(f"{module} failed: {done.stderr[-2_000:]}")
    result: dict[str, Any] = json.loads(done.stdout)
    return result
