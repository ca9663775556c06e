"""What a running `gregor dev` leaves for the other commands: `gregor/dev.json` in the user's state directory.

The file holds a service key and the token secret of a development set-up; hence its mode, 0600.
"""

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Running:
    """A running `gregor dev`. URLs as its `--json` prints them; the token members are what its gateways ask for."""

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
    """Variables that lead to its fake providers, where it has any."""


def state_directory(environ: Mapping[str, str]) -> Path:
    """`$XDG_STATE_HOME/gregor`, else `~/.local/state/gregor`."""
    root = environ.get("XDG_STATE_HOME")
    return (Path(root) if root else Path.home() / ".local" / "state") / "gregor"


def write_running(running: Running, environ: Mapping[str, str]) -> Path:
    """Leave it for the other commands, in place of an older one. OSError where the directory cannot be written."""
    place = state_directory(environ) / "dev.json"
    place.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    fresh = place.with_name(f"dev.{os.getpid()}.json")
    # Created with its mode: at no moment can somebody else read it.
    with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:
        json.dump(asdict(running), file)
    fresh.replace(place)
    return place


def read_running(environ: Mapping[str, str]) -> Running | None:
    """The running `gregor dev`; None where there is none, or what it left is stale."""
    with suppress(OSError, ValueError, TypeError, RuntimeError):
        found = json.loads((state_directory(environ) / "dev.json").read_text("utf-8"))
        running = Running(**{each.name: found[each.name] for each in fields(Running) if each.name in found})
        return running if _is_alive(running.pid) else None
    return None


def remove_running(pid: int, environ: Mapping[str, str]) -> None:
    """Take away what `pid` left; what a newer one left stays."""
    running = read_running(environ)
    if running is not None and running.pid == pid:
        with suppress(OSError):
            (state_directory(environ) / "dev.json").unlink()


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
