"""The machine under a benchmark: which core runs which process, and how much CPU and memory it used (/proc)."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

_TICK_S = 1 / os.sysconf("SC_CLK_TCK")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
REAL_TIME_PRIORITY = 5
CORES = sorted(os.sched_getaffinity(0))
UNDER_TEST = {CORES[0]}
"""The core of the process under test, alone if possible."""
BESIDE = {CORES[-1]}
"""The core of the load and of everything else."""


def pin(pid: int, cores: set[int]) -> None:
    """Bind a process with all its threads to cores."""
    for thread in Path(f"/proc/{pid}/task").iterdir():
        with suppress(ProcessLookupError):
            os.sched_setaffinity(int(thread.name), cores)


def cpu_s(pid: int) -> float:
    """Return CPU seconds of a process so far, user and kernel mode, in steps of 10 ms."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) * _TICK_S


def cpu_ns(pid: int) -> int:
    """Return CPU nanoseconds of all threads of a process so far."""
    files = Path(f"/proc/{pid}/task").glob("*/schedstat")
    return sum(int(file.read_text().split()[0]) for file in files)


def rss_bytes(pid: int) -> int:
    """Return the resident memory of a process in bytes."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE_BYTES


def peak_rss_bytes(pid: int) -> int:
    """Return the largest resident memory that a process has had, in bytes."""
    line = next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1_024


def allow_many_sockets() -> int:
    """Raise the limit of open files to the hard limit, also for child processes; return it."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    return most


@contextmanager
def real_time() -> Iterator[None]:
    """Run this process and its new children above all other work of the machine, if the user may do that (root)."""
    try:
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(REAL_TIME_PRIORITY))
    except PermissionError:
        print("no real-time priority, so other work on this machine counts")
    try:
        yield
    finally:
        with suppress(PermissionError):
            os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))


def prefer(pids: Iterable[int]) -> None:
    """Run processes before all others of a ``real_time`` block, if the user may do that."""
    for pid in pids:
        with suppress(PermissionError):
            os.sched_setscheduler(pid, os.SCHED_RR, os.sched_param(REAL_TIME_PRIORITY + 1))


def run_load(module: str, job: dict[str, Any], timeout_s: float = 600) -> dict[str, Any]:
    """Run `python -m <module>` on the core of the load, with the job on standard input; return its JSON."""
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
