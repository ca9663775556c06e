"""Formats of a deployment: the one that is written, and those that each running process reads and writes. Pure.

The deployment stores the format that all processes write. A release reads a new format before any process writes it, so
releases N and N+1 run side by side: docs/decisions/0016-formats.md.
"""

from __future__ import annotations

from typing import Final

import msgspec

from gregor import __version__
from gregor.core.formats import FORMAT, READS

REGISTERED_S: Final = 60
"""TTL of a registered process, in seconds. Each process registers again every third of it."""

SCHEDULER_LEASE_S: Final = 10
"""TTL of a registered scheduler. It registers again every four seconds, because schedulers share work by this list."""


def registered_s(service: str) -> int:
    """Return the TTL of a registered process of a service, in seconds."""
    return SCHEDULER_LEASE_S if service == "scheduler" else REGISTERED_S


class ProcessFormats(msgspec.Struct, frozen=True):
    """One running process: its id and service, its release, the formats that it reads (from, to), the one it writes."""

    process: str
    service: str
    release: str
    reads: tuple[int, int]
    writes: int

    def encode(self) -> bytes:
        """Return the stored form."""
        return msgspec.json.encode(self)


_DECODER: Final = msgspec.json.Decoder(ProcessFormats)


def own_formats(process: str, service: str, written: int) -> ProcessFormats:
    """Return the registration of this process in a deployment that writes the format ``written``."""
    return ProcessFormats(process, service, __version__, READS, min(written, FORMAT))


def decode_process(raw: bytes) -> ProcessFormats:
    """Return a registered process from its stored form."""
    return _DECODER.decode(raw)


class WrittenFormat(msgspec.Struct, frozen=True):
    """The format that the processes of a deployment write, and the release that began to write it."""

    number: int
    release: str


def refusal(written: WrittenFormat) -> str | None:
    """Return why a process of this release cannot start in a deployment; None if it can."""
    lowest, highest = READS
    if lowest <= written.number <= highest:
        return None
    return (
        f"the data of this deployment has format {written.number}, and gregor {__version__} reads formats {lowest} to "
        f"{highest}; start gregor {written.release} or another release that reads format {written.number}"
    )


def readers_missing(number: int, processes: list[ProcessFormats]) -> list[ProcessFormats]:
    """Return the running processes that cannot read a format; it may be written once there are none."""
    return [each for each in processes if not each.reads[0] <= number <= each.reads[1]]
