"""Formats of a deployment: the one that is written, and those that each running process reads and writes. Pure.

The deployment stores the format that all processes write. A release reads a new format before any process writes it, so
releases N and N+1 run side by side: docs/decisions/0016-formats.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal, Protocol

import msgspec

from gregor import __version__
from gregor.core.errors import Problem
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


# ---- the written format, and which release may start


class WrittenFormat(msgspec.Struct, frozen=True):
    """The format that the processes of a deployment write, and the release that began to write it.

    ``oldest``: the lowest format that a stored value may have. ``finishing``: the format that is about to be written,
    while an upgrade is being finished; 0 otherwise.
    """

    number: int
    release: str
    oldest: int = 1
    finishing: int = 0


def refusal(written: WrittenFormat) -> str | None:
    """Return why a process of this release cannot start in a deployment; None if it can."""
    lowest, highest = READS
    number = max(written.number, written.finishing)
    own = f"gregor {__version__} reads formats {lowest} to {highest}"
    if not lowest <= number <= highest:
        return (
            f"the data of this deployment has format {number}, and {own}; "
            f"start gregor {written.release} or another release that reads format {number}"
        )
    if written.oldest < lowest:
        return (
            f"values of format {written.oldest} may still be stored, and {own}; start gregor {written.release} again, "
            f"and wait until its job {rewrite_job(written.number)} is done (gregor jobs list)"
        )
    return None


def rewrite_job(number: int) -> str:
    """Return the id of the job that rewrites the stored values in a format."""
    return f"rewrite-{number}"


# ---- finishing an upgrade


class DeploymentFormats(msgspec.Struct, frozen=True):
    """What a deployment writes, and what its running processes read and write."""

    written: WrittenFormat
    processes: Sequence[ProcessFormats]

    @property
    def newest(self) -> int:
        """The highest format that a running process reads. Finishing the upgrade makes it the written one."""
        return max([self.written.number, *(each.reads[1] for each in self.processes)])

    @property
    def blocking(self) -> list[ProcessFormats]:
        """The running processes that cannot read the newest format."""
        return readers_missing(self.newest, self.processes)

    @property
    def lagging(self) -> list[ProcessFormats]:
        """The running processes that write an older format than the written one: they learn it within 20 seconds."""
        return [each for each in self.processes if each.writes < self.written.number]

    @property
    def is_mixed(self) -> bool:
        """Whether stored values may have an older format than the written one."""
        return self.written.oldest < self.written.number

    @property
    def state(self) -> Literal["finished", "possible", "blocked"]:
        """Whether the upgrade is finished, or can be. ``blocked``: a process cannot read the newest format."""
        if self.newest == self.written.number:
            return "finished"
        return "blocked" if self.blocking else "possible"


def readers_missing(number: int, processes: Sequence[ProcessFormats]) -> list[ProcessFormats]:
    """Return the running processes that cannot read a format; it may be written once there are none."""
    return [each for each in processes if not each.reads[0] <= number <= each.reads[1]]


def upgrade_blocked(formats: DeploymentFormats) -> Problem:
    """Return the error of an upgrade that cannot be finished: it names the processes that must be replaced."""
    names = ", ".join(f"{each.service} {each.process} (gregor {each.release})" for each in formats.blocking[:5])
    more = len(formats.blocking) - 5
    return Problem(
        "upgrade_blocked",
        f"Format {formats.newest} is not written yet, because {len(formats.blocking)} running processes cannot read "
        f"it: {names}{f' and {more} more' if more > 0 else ''}. Replace them with a release that reads it.",
    )


class Deployment(Protocol):
    """The facts that all processes of a deployment share."""

    @property
    def own(self) -> ProcessFormats | None:
        """The registration of this process; ``None`` if it is not registered."""
        ...

    async def formats(self) -> DeploymentFormats:
        """Return the written format and the running processes."""
        ...

    async def finish_upgrade(self) -> DeploymentFormats:
        """Let all processes write the newest format that one of them reads. Repeatable. Returns the formats after it.

        Raises ``Problem`` ``upgrade_blocked`` if a running process cannot read that format; nothing is changed then.
        """
        ...

    async def raise_oldest_format(self, number: int) -> None:
        """Record that no stored value has a lower format than this one."""
        ...


# ---- rewriting stored values


class RewritePosition(msgspec.Struct, frozen=True):
    """The progress of rewriting all values in the written format. The search visits all servers, in passes.

    ``left``: the servers that this pass has not searched completely; ``None`` before a pass. ``server_id``: the process
    to which ``cursor`` belongs. ``searched`` of ``total``: keys of this pass. ``rewritten``: keys that it changed.
    """

    left: list[str] | None = None
    server_id: str = ""
    cursor: str = "0"
    searched: int = 0
    total: int = 0
    rewritten: int = 0
    is_complete: bool = False


class Rewriting(Protocol):
    """Rewrites stored values in the newest format of this release."""

    async def rewrite_some(self, position: RewritePosition) -> RewritePosition:
        """Rewrite a page of keys. Returns the position of the next page. Repeatable."""
        ...
