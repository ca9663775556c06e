"""The client under test: a command that reads one JSON request a line and writes one JSON response a line."""

from __future__ import annotations

import json
import os
import select
import subprocess
import time
from collections import deque
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
            # The caller of `gregor conformance` chooses the command.
            self._process = subprocess.Popen(  # noqa: S603
                self.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
            )
        except OSError as error:
            raise TesteeError(f"{self.command[0]} cannot be started: {error.strerror}") from None
        self._requests: IO[bytes] = cast("IO[bytes]", self._process.stdin)
        self._responses: IO[bytes] = cast("IO[bytes]", self._process.stdout)
        # If the command does not read, the pipe is full: a blocking write would wait for ever.
        os.set_blocking(self._requests.fileno(), False)
        self._awaited: deque[str] = deque()
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
        """Send a request and return its response. Discards earlier responses that were not read. Raises TesteeError."""
        self.send(do, **members)
        while len(self._awaited) > 1:
            self.response()
        return self.response()

    def send(self, do: str, **members: Any) -> None:
        """Send a request whose response is read later: kit and command then work at the same time."""
        request = json.dumps({"do": do, **members}, separators=(",", ":"), allow_nan=False)
        self._write(do, request.encode() + b"\n", time.monotonic() + self._timeout_s)
        self._awaited.append(do)

    def response(self) -> dict[str, Any]:
        """Return the response to the oldest request that waits for one.

        Raises TesteeError if the response is late, is malformed, or has `error`.
        """
        do = self._awaited.popleft()
        line = self._line(do, time.monotonic() + self._timeout_s)
        try:
            response = decode_published(line.decode())
        except ValueError:
            raise TesteeError(f"the response to {do!r} is not JSON: {line[:200]!r}") from None
        if not isinstance(response, dict):
            raise TesteeError(f"the response to {do!r} is not a JSON object: {line[:200]!r}")
        if "error" in response:
            raise TesteeError(f"{do}: {response['error']}")
        return response

    def _write(self, do: str, request: bytes, deadline: float) -> None:
        requests, responses = self._requests.fileno(), self._responses.fileno()
        rest = memoryview(request)
        while rest:
            try:
                rest = rest[os.write(requests, rest) :]
            except BrokenPipeError:
                raise TesteeError(f"the command ended before {do!r}") from None
            except BlockingIOError:
                # The pipe is full. The command may wait until its own responses are read.
                readable, writable, _ = select.select([responses], [requests], [], _until(deadline))
                if readable:
                    self._read(do)
                elif not writable:
                    raise TesteeError(f"the command did not read {do!r} within {self._timeout_s:g} s") from None

    def _line(self, do: str, deadline: float) -> bytes:
        while b"\n" not in self._unread:
            if not select.select([self._responses], [], [], _until(deadline))[0]:
                raise TesteeError(f"no response to {do!r} within {self._timeout_s:g} s")
            self._read(do)
        line, _, self._unread = self._unread.partition(b"\n")
        return line

    def _read(self, do: str) -> None:
        data = os.read(self._responses.fileno(), 1 << 20)
        if not data:
            raise TesteeError(f"the command ended during {do!r}; its error output is above")
        self._unread += data


def _until(deadline: float) -> float:
    return max(0.0, deadline - time.monotonic())
