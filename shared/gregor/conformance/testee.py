"""The client under test: a command that reads one JSON request a line and writes one JSON response a line."""

from __future__ import annotations

import json
import os
import select
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from types import TracebackType
from typing import IO, Any, Self, cast

from gregor.core.json_text import decode_published

TIMEOUT_S = 30.0
"""Timeout of one request with its response."""


class TesteeError(Exception):
    """The command ended, was too slow, did not read, or wrote something that is not a response."""

    __test__ = False


class Testee:
    """A running command, as a context manager."""

    __test__ = False

    def __init__(self, command: Sequence[str], timeout_s: float = TIMEOUT_S) -> None:
        """Start the command. Raises TesteeError if it cannot be started."""
        self.command = list(command)
        self._timeout_s = timeout_s
        try:
            # The command of the person who runs the kit.
            self._process = subprocess.Popen(  # noqa: S603
                self.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
            )
        except OSError as error:
            raise TesteeError(f"{self.command[0]} cannot be started: {error.strerror}") from None
        self._requests: IO[bytes] = cast("IO[bytes]", self._process.stdin)
        self._responses: IO[bytes] = cast("IO[bytes]", self._process.stdout)
        # A command that does not read fills the pipe: a blocking write would then wait for ever.
        os.set_blocking(self._requests.fileno(), False)
        self._unread = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._responses.close()
        with suppress(BrokenPipeError):
            self._requests.close()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def ask(self, do: str, **members: Any) -> dict[str, Any]:
        """Send a request and return the response. Raises TesteeError; `error` in a response is one, too."""
        request = json.dumps({"do": do, **members}, separators=(",", ":"), allow_nan=False)
        deadline = time.monotonic() + self._timeout_s
        self._write(do, request.encode() + b"\n", deadline)
        line = self._line(do, deadline)
        try:
            response = decode_published(line)
        except ValueError:
            raise TesteeError(f"the response to {do!r} is not JSON: {line[:200]!r}") from None
        if not isinstance(response, dict):
            raise TesteeError(f"the response to {do!r} is not a JSON object: {line[:200]!r}")
        if "error" in response:
            raise TesteeError(f"{do}: {response['error']}")
        return response

    def _write(self, do: str, request: bytes, deadline: float) -> None:
        descriptor = self._requests.fileno()
        rest = memoryview(request)
        while rest:
            _, writable, _ = select.select([], [descriptor], [], _until(deadline))
            if not writable:
                raise TesteeError(f"the command did not read {do!r} within {self._timeout_s:g} s")
            try:
                rest = rest[os.write(descriptor, rest) :]
            except BrokenPipeError:
                raise TesteeError(f"the command ended before {do!r}") from None

    def _line(self, do: str, deadline: float) -> bytes:
        descriptor = self._responses.fileno()
        while b"\n" not in self._unread:
            readable, _, _ = select.select([descriptor], [], [], _until(deadline))
            if not readable:
                raise TesteeError(f"no response to {do!r} within {self._timeout_s:g} s")
            data = os.read(descriptor, 1 << 20)
            if not data:
                raise TesteeError(f"the command ended during {do!r}; its error output is above")
            self._unread += data
        line, _, self._unread = self._unread.partition(b"\n")
        return line


def _until(deadline: float) -> float:
    return max(0.0, deadline - time.monotonic())
