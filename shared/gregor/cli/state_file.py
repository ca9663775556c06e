"""The files by which the other commands find a running `gregor dev`: `gregor/dev-<port>.json` in the state directory.

A file contains a service key and the token secret of a development server, so its mode is 0600.
"""

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path


@dataclass(frozen=True, slots=True)
class RunningDev:
    """A running `gregor dev`. URLs as in its `--json` line; tokens must match the `token_` members."""

    pid: int
    ingest: str
    gateway: str
    stream: str
    redis: str
    key: str
    token_secret: str
    token_aud: str | None = None
    token_iss: str | None = None
    clock_offset_s: float = 0.0
    providers: dict[str, str] = field(default_factory=dict)
    """Settings of its fake providers, if it has any."""


def state_directory(environ: Mapping[str, str]) -> Path:
    """`$XDG_STATE_HOME/gregor`, else `~/.local/state/gregor`."""
    root = environ.get("XDG_STATE_HOME")
    return (Path(root) if root else Path.home() / ".local" / "state") / "gregor"


def data_directory(port_base: int, environ: Mapping[str, str]) -> Path:
    """Return the directory in which a `gregor dev` of these ports keeps its state by default."""
    return state_directory(environ) / f"dev-{port_base}"


def write_running(running: RunningDev, port_base: int, environ: Mapping[str, str]) -> Path:
    """Write the file of this port base. Raises OSError if the directory cannot be written."""
    file = _file(port_base, environ)
    file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    temporary = file.with_name(f".{file.name}.{os.getpid()}")
    # Created with its mode: at no moment can another user read it.
    with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as opened:
        json.dump(asdict(running), opened)
    temporary.replace(file)
    return file


def read_running(environ: Mapping[str, str], ingest: str | None = None) -> RunningDev | None:
    """Return the running `gregor dev` with that URL of ingest, or the one that was started last.

    Returns None if no `gregor dev` is running.
    """
    alive = (running for running in _read_all(environ) if _is_alive(running.pid))
    return next((running for running in alive if ingest is None or running.ingest == ingest.rstrip("/")), None)


def remove_running(pid: int, port_base: int, environ: Mapping[str, str]) -> None:
    """Remove the file of this port base if it belongs to the process `pid`."""
    file = _file(port_base, environ)
    running = _read(file)
    if running is not None and running.pid == pid:
        with suppress(OSError):
            file.unlink()


def _file(port_base: int, environ: Mapping[str, str]) -> Path:
    return state_directory(environ) / f"dev-{port_base}.json"


def _read_all(environ: Mapping[str, str]) -> Iterator[RunningDev]:
    """Return everything readable in the state directory, the newest first."""
    # A file may vanish between listing and reading: another `gregor dev` has just ended.
    files: list[tuple[int, Path]] = []
    with suppress(OSError, RuntimeError):
        files = [(file.stat().st_mtime_ns, file) for file in state_directory(environ).glob("dev-*.json")]
    for _, file in sorted(files, reverse=True):
        if (running := _read(file)) is not None:
            yield running


def _read(file: Path) -> RunningDev | None:
    with suppress(OSError, ValueError, TypeError):
        found = json.loads(file.read_text("utf-8"))
        return RunningDev(**{each.name: found[each.name] for each in fields(RunningDev) if each.name in found})
    return None


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
