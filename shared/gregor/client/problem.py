"""What a client library raises: the server's refusals, as it said them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .changes import Stopped


class MessageRejected(Exception):
    """The server refused a message or a call for good. `document` is its RFC 9457 problem."""

    def __init__(self, document: Mapping[str, Any]) -> None:
        super().__init__(f"{document.get('code')}: {document.get('detail')}")
        self.document = dict(document)

    @property
    def code(self) -> str:
        """The code, as in docs/reference/errors.md."""
        return str(self.document.get("code"))

    @property
    def status(self) -> int:
        """The HTTP status; 0 where none was told."""
        return int(self.document.get("status", 0))


class Unreachable(Exception):
    """The server could not be reached, or kept asking to try later, until the caller's patience was over."""


class DeviceStopped(Exception):
    """The server closed the device's connection for good; `stopped` says why."""

    def __init__(self, stopped: Stopped) -> None:
        super().__init__(f"{stopped.code} {stopped.reason}")
        self.stopped = stopped
