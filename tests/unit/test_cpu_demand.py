"""CPU time that a thread uses or waits for, with and without the statistics of the Linux scheduler."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from gregor import cpu_demand
from gregor.cpu_demand import wanted_cpu_s


def compute(seconds: float) -> None:
    end_s = time.monotonic() + seconds
    while time.monotonic() < end_s:
        pass


@pytest.mark.skipif(
    not Path("/proc/thread-self/schedstat").exists(), reason="the Linux scheduler has no statistics here"
)
def test_computing_wants_a_whole_core_beside_other_processes() -> None:
    before_s, began_s = wanted_cpu_s(), time.monotonic()
    compute(0.2)

    assert wanted_cpu_s() - before_s >= 0.9 * (time.monotonic() - began_s)


@pytest.mark.parametrize("content", [None, "", "a b c", "0 0 0\n"])
def test_thread_time_is_used_without_statistics(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str | None
) -> None:
    file = tmp_path / "schedstat"
    if content is not None:
        file.write_text(content)
    monkeypatch.setattr(cpu_demand, "_SCHEDULER_STATISTICS", file)
    before_s = time.thread_time()

    assert before_s <= wanted_cpu_s() <= time.thread_time()
