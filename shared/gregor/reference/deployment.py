"""Executable specification: never runs in production. A deployment of one process, in memory."""

from __future__ import annotations

from msgspec.structs import replace

from gregor import __version__
from gregor.core.formats import FORMAT
from gregor.store.formats import (
    DeploymentFormats,
    ProcessFormats,
    RewritePosition,
    WrittenFormat,
    own_formats,
    upgrade_blocked,
)


class MemoryDeployment:
    """``Deployment`` in memory. A test adds to ``processes`` and changes ``written``."""

    def __init__(self) -> None:
        self.own: ProcessFormats | None = own_formats("memory", "ingest", FORMAT)
        self.written = WrittenFormat(FORMAT, __version__, FORMAT)
        self.processes: list[ProcessFormats] = []

    async def formats(self) -> DeploymentFormats:
        """See ``Deployment.formats``."""
        own = () if self.own is None else (self.own,)
        return DeploymentFormats(self.written, (*own, *self.processes))

    async def finish_upgrade(self) -> DeploymentFormats:
        """See ``Deployment.finish_upgrade``."""
        formats = await self.formats()
        if formats.state == "blocked":
            raise upgrade_blocked(formats)
        if formats.state == "possible":
            self.written = WrittenFormat(formats.newest, __version__, self.written.oldest)
        return await self.formats()

    async def raise_oldest_format(self, number: int) -> None:
        """See ``Deployment.raise_oldest_format``."""
        self.written = replace(self.written, oldest=max(number, self.written.oldest))


class MemoryRewriting:
    """``Rewriting`` in memory, where no value has a format."""

    async def rewrite_some(self, position: RewritePosition) -> RewritePosition:
        """See ``Rewriting.rewrite_some``."""
        return replace(position, is_complete=True)
