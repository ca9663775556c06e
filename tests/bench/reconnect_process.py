"""The process of `reconnect_load`, as a context manager of the benchmark."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tests.bench.machine import prefer
from tests.bench.reconnect_load import ReconnectJob
from tests.bench.reconnecting import Outage


@dataclass
class ReconnectRun:
    """The result of a load (see `reconnect_load`)."""

    outages: list[Outage]
    latencies: list[tuple[float, float]]
    ends: dict[str, int]
    sent: int
    retried: dict[str, int]
    failed: dict[str, int]
    pushes: list[str]
    different: list[str]


@contextmanager
def reconnect_load(
    job: ReconnectJob, directory: Path, name: str = "job", *, is_preferred: bool = False
) -> Iterator[Callable[[], ReconnectRun]]:
    """Run the load in another process until the yielded function is called, which returns the results.

    The block begins when all devices are connected. ``name``: of the job in the directory. ``is_preferred``: the
    process goes before other loads.
    """
    file = directory / f"{name}.json"
    file.write_text(json.dumps(asdict(job)), "utf-8")
    command = [sys.executable, "-m", "tests.bench.reconnect_load", str(file)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None and process.stdout is not None
        if is_preferred:
            prefer([process.pid])
        stdin, stdout, printed = process.stdin, process.stdout, list[str]()
        reader = threading.Thread(target=lambda: printed.append(stdout.read()), daemon=True)

        def finish() -> ReconnectRun:
            stdin.write("end\n")
            stdin.flush()
            reader.join(240)
            document: dict[str, Any] = json.loads(printed[0])
            outages = [Outage(**each) for each in document.pop("outages")]
            return ReconnectRun(outages, **document)

        try:
            if stdout.readline() != "ready\n":
                raise RuntimeError("the devices of the load could not connect")
            reader.start()
            yield finish
        finally:
            process.kill()
