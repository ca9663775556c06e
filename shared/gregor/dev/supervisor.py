"""The processes of `gregor dev`: started, restarted after a crash, and their output relayed line by line."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

import httpx

from gregor.core.backoff import Backoff, no_jitter
from gregor.net.outgoing.http_clients import async_client

from .errors import DevError
from .processes import end_with_parent, module_command

FIRST_DELAY_S = 0.5
MAX_DELAY_S = 10.0
STEADY_S = 30.0
"""A process that ran this long before it crashed is restarted after the first delay again."""
READY_S = 60.0
CRASHES_AT_START = 3
"""A process that ends this often before all are ready will not recover: its last line becomes the error."""
_LINE_BYTES = 1_048_576

PrintLine = Callable[[str, str], None]
"""`print_line(name, line)` prints one line of the process of that name."""


@dataclass(frozen=True, slots=True)
class ServiceProcess:
    """A process to keep running: module and environment; it is ready when all `probes` answer 200."""

    name: str
    module: str
    environ: Mapping[str, str] = field(repr=False)
    probes: Sequence[str]


class SupervisedProcess:
    """One service process, over restarts."""

    def __init__(self, service: ServiceProcess, print_line: PrintLine) -> None:
        """`print_line` gets each line of output, and each restart."""
        self.service = service
        self.crashes = 0
        self.last_line = ""
        self._print_line = print_line
        self._stopping = asyncio.Event()
        self._process: asyncio.subprocess.Process | None = None

    async def run(self) -> None:
        """Keep the process running until `signal_end`."""
        loop = asyncio.get_running_loop()
        backoff = Backoff(FIRST_DELAY_S, MAX_DELAY_S, no_jitter)
        while not self._stopping.is_set():
            started_s = loop.time()
            status = await self._run_once()
            if self._stopping.is_set():
                return
            self.crashes += 1
            if loop.time() - started_s >= STEADY_S:
                backoff.reset()
            delay_s = backoff.next_s()
            self._print_line(self.service.name, f"ended ({_status_text(status)}); restarts in {delay_s:g} s")
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), delay_s)

    async def _run_once(self) -> int:
        process = self._process = await asyncio.create_subprocess_exec(
            *module_command(self.service.module),
            env={**self.service.environ, "PYTHONUNBUFFERED": "1"},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            limit=_LINE_BYTES,
            start_new_session=True,  # Ctrl-C must reach only us: we stop the processes in order
            preexec_fn=end_with_parent(),
        )
        if self._stopping.is_set():
            self.signal_end()
        assert process.stdout is not None  # noqa: S101 - a pipe was requested
        await self._relay(process.stdout)
        return await process.wait()

    async def _relay(self, output: asyncio.StreamReader) -> None:
        while True:
            try:
                line = await output.readline()
            except ValueError:  # a line over the limit: the reader has discarded it
                continue
            if not line:
                return
            text = line.decode("utf-8", "replace").rstrip()
            if text:
                self.last_line = text
                self._print_line(self.service.name, text)

    def signal_end(self, hard: bool = False) -> None:
        """Send SIGTERM (`hard`: SIGKILL), and do not restart the process any more."""
        self._stopping.set()
        if self._process is not None and self._process.returncode is None:
            with suppress(ProcessLookupError):
                self._process.kill() if hard else self._process.terminate()


class Supervisor:
    """All service processes of one `gregor dev`."""

    def __init__(self, services: Sequence[ServiceProcess], print_line: PrintLine) -> None:
        self.processes = [SupervisedProcess(service, print_line) for service in services]
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Start all processes at once."""
        self._tasks = [asyncio.create_task(process.run()) for process in self.processes]

    async def wait_ready(self) -> None:
        """Return when every probe answers 200. Raises DevError if a process keeps ending, or after `READY_S`."""
        deadline_s = asyncio.get_running_loop().time() + READY_S
        async with async_client(timeout=2, trust_env=False) as client:
            for process in self.processes:
                for probe in process.service.probes:
                    while not await _is_ready(client, probe):
                        if process.crashes >= CRASHES_AT_START:
                            reason = process.last_line or "it printed nothing"
                            raise DevError(f"{process.service.name} does not start: {reason}")
                        if asyncio.get_running_loop().time() > deadline_s:
                            raise DevError(f"{process.service.name} is not ready after {READY_S:g} s ({probe})")
                        await asyncio.sleep(0.05)

    async def stop(self, timeout_s: float) -> None:
        """Stop all processes: SIGTERM, `timeout_s` to drain, then SIGKILL. Returns when all have ended."""
        for process in self.processes:
            process.signal_end()
        if not self._tasks:
            return
        _, pending = await asyncio.wait(self._tasks, timeout=timeout_s)
        if pending:
            self.kill()
            await asyncio.wait(pending)

    def kill(self) -> None:
        """Kill all processes."""
        for process in self.processes:
            process.signal_end(hard=True)


async def _is_ready(client: httpx.AsyncClient, probe: str) -> bool:
    try:
        return (await client.get(probe)).status_code == 200
    except httpx.HTTPError:
        return False


def _status_text(status: int) -> str:
    return f"exit status {status}" if status >= 0 else f"signal {-status}"
