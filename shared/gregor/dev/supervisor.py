"""Processes of `gregor dev`: started, their output told line by line with a prefix, started again when they crash."""

import asyncio
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

import httpx

from gregor.cli.errors import Failure
from gregor.core.backoff import Backoff, no_jitter

from .embedded_redis import end_with_parent

FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 10.0
STEADY_S = 30.0
"""A process that ran so long before it crashed is started again with the first pause."""
READY_S = 60.0
CRASHES_AT_START = 3
"""Who ends so often before all is ready will not become so: its last words are the error."""
_LINE_BYTES = 1_048_576


@dataclass(frozen=True, slots=True)
class Service:
    """A process to keep running: `python -m <module>` in `environ`; ready when `probes` all answer 200."""

    name: str
    module: str
    environ: Mapping[str, str] = field(repr=False)
    probes: Sequence[str]


class Child:
    """One service and its process, over restarts."""

    def __init__(self, service: Service, tell: Callable[[str, str], None]) -> None:
        """`tell(name, line)` gets each line of output, and what becomes of the process."""
        self.service = service
        self.crashes = 0
        self.last_line = ""
        self._tell = tell
        self._stopping = asyncio.Event()
        self._process: asyncio.subprocess.Process | None = None

    async def run(self) -> None:
        """Keep it running until `stop`."""
        loop = asyncio.get_running_loop()
        backoff = Backoff(FIRST_PAUSE_S, LONGEST_PAUSE_S, no_jitter)
        while not self._stopping.is_set():
            started_s = loop.time()
            status = await self._run_once()
            if self._stopping.is_set():
                return
            self.crashes += 1
            if loop.time() - started_s >= STEADY_S:
                backoff.reset()
            pause_s = backoff.next_s()
            self._tell(self.service.name, f"ended ({_status_text(status)}); starts again in {pause_s:g} s")
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), pause_s)

    async def _run_once(self) -> int:
        process = self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            self.service.module,
            env={**self.service.environ, "PYTHONUNBUFFERED": "1"},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            limit=_LINE_BYTES,
            start_new_session=True,  # a Ctrl-C of the terminal is for us alone; we end them in order
            preexec_fn=end_with_parent(),
        )
        if self._stopping.is_set():
            self.signal_end()
        assert process.stdout is not None  # noqa: S101 - a pipe was asked for
        await self._relay(process.stdout)
        return await process.wait()

    async def _relay(self, output: asyncio.StreamReader) -> None:
        while True:
            try:
                line = await output.readline()
            except ValueError:  # a line over the limit: the reader has dropped what it held
                continue
            if not line:
                return
            text = line.decode("utf-8", "replace").rstrip()
            if text:
                self.last_line = text
                self._tell(self.service.name, text)

    def signal_end(self, hard: bool = False) -> None:
        """Ask it to end (SIGTERM; `hard`: SIGKILL), and start it no more."""
        self._stopping.set()
        if self._process is not None and self._process.returncode is None:
            with suppress(ProcessLookupError):
                self._process.kill() if hard else self._process.terminate()


class Supervisor:
    """All services of one `gregor dev`."""

    def __init__(self, services: Sequence[Service], tell: Callable[[str, str], None]) -> None:
        self.children = [Child(service, tell) for service in services]
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Start all, at once."""
        self._tasks = [asyncio.create_task(child.run()) for child in self.children]

    async def wait_ready(self) -> None:
        """Return when every probe answers 200. Failure where a service keeps ending, or readiness takes too long."""
        deadline_s = asyncio.get_running_loop().time() + READY_S
        async with httpx.AsyncClient(timeout=2, trust_env=False) as client:
            for child in self.children:
                for probe in child.service.probes:
                    while not await _is_ready(client, probe):
                        if child.crashes >= CRASHES_AT_START:
                            raise Failure(
                                f"{child.service.name} does not start: {child.last_line or 'it says nothing'}"
                            )
                        if asyncio.get_running_loop().time() > deadline_s:
                            raise Failure(f"{child.service.name} is not ready after {READY_S:g} s ({probe})")
                        await asyncio.sleep(0.05)

    async def stop(self, max_wait_s: float) -> None:
        """End all: SIGTERM, `max_wait_s` to drain, then SIGKILL. Returns when none is left."""
        for child in self.children:
            child.signal_end()
        if not self._tasks:
            return
        _, pending = await asyncio.wait(self._tasks, timeout=max_wait_s)
        if pending:
            self.kill()
            await asyncio.wait(pending)

    def kill(self) -> None:
        """End all at once."""
        for child in self.children:
            child.signal_end(hard=True)


async def _is_ready(client: httpx.AsyncClient, probe: str) -> bool:
    try:
        return (await client.get(probe)).status_code == 200
    except httpx.HTTPError:
        return False


def _status_text(status: int) -> str:
    return f"exit status {status}" if status >= 0 else f"signal {-status}"


def inherited_environ() -> dict[str, str]:
    """The environment for a child, without what belongs to the command line alone."""
    return {name: value for name, value in os.environ.items() if name not in ("GREGOR_URL", "GREGOR_KEY")}
