"""The fakes of `gregor dev --fake-providers`: a process that takes pushes and mails, and says of each that it came.

Started as the services are, as a module of its own process: the command line knows none of them.
"""

import asyncio
import json
import os
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from gregor.cli.errors import Failure
from gregor.config.settings import VARIABLES

from .embedded_redis import end_with_parent
from .supervisor import inherited_environ

MODULE = "gregor.dev.fakes"
NAME = "fakes"
"""What stands before its lines."""
READY_S = 30.0
STOP_S = 5.0
PROVIDERS = {"apns": "APNs", "fcm": "FCM", "webpush": "Web Push", "email": "mail"}
_LINE_BYTES = 1_048_576
_REAL = ("GREGOR_APNS_", "GREGOR_FCM_", "GREGOR_VAPID_", "GREGOR_WEBPUSH_", "GREGOR_SMTP_", "GREGOR_MAIL_")


@dataclass(frozen=True, slots=True)
class FakeProviders:
    """Fakes that listen. `settings` lead Gregor to them; `arrivals`: a file with one line of JSON for each arrival.

    `subscription`: of a browser that the fake Web Push service knows.
    """

    settings: Mapping[str, str] = field(repr=False)
    subscription: Mapping[str, Any] = field(repr=False)
    arrivals: Path

    def environ(self, given: Mapping[str, str]) -> dict[str, str]:
        """`given` led to the fakes, and to no real provider."""
        kept = {name: value for name, value in given.items() if not name.startswith(_REAL)}
        return kept | {name: value for name, value in self.settings.items() if name in VARIABLES}


@asynccontextmanager
async def fake_providers(data: Path | None, tell: Callable[[str, str], None]) -> AsyncIterator[FakeProviders]:
    """Run the fakes; `tell(NAME, words)` is called for each arrival. What they write is in `data`, else goes with them.

    Failure where they do not start.
    """
    with tempfile.TemporaryDirectory(prefix="gregor-fakes-") as passing:
        directory = Path(passing) if data is None else data / "fakes"
        directory.mkdir(mode=0o700, exist_ok=True)
        process = await _start(directory)
        output, entrance = process.stdout, process.stdin
        assert output is not None and entrance is not None  # noqa: S101 - pipes were asked for
        ending = asyncio.Event()
        try:
            first = await _first_line(process, output)
            arrivals = directory / "arrivals.jsonl"
            with arrivals.open("w", encoding="utf-8") as kept:
                telling = asyncio.create_task(_tell_arrivals(output, kept, tell, ending))
                yield FakeProviders(first["settings"], first["subscription"], arrivals)
                ending.set()
                entrance.close()  # they end with their standard input
                await asyncio.wait([telling], timeout=STOP_S)
                telling.cancel()
        finally:
            if process.returncode is None:
                process.kill()
            await process.wait()


async def _start(directory: Path) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", MODULE, str(directory)),
        env={**inherited_environ(), "PYTHONUNBUFFERED": "1"},
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        limit=_LINE_BYTES,
        start_new_session=True,  # a Ctrl-C of the terminal is for us alone
        preexec_fn=end_with_parent(),
    )


async def _first_line(process: asyncio.subprocess.Process, output: asyncio.StreamReader) -> dict[str, Any]:
    said = ""
    try:
        async with asyncio.timeout(READY_S):
            while line := await output.readline():
                said = line.decode("utf-8", "replace").strip()
                if (document := _document(said)) is not None:
                    return document
    except TimeoutError:
        raise Failure(f"the fake providers are not ready after {READY_S:g} s") from None
    await process.wait()
    raise Failure(f"the fake providers do not start: {said or 'they say nothing'}")


async def _tell_arrivals(
    output: asyncio.StreamReader, kept: IO[str], tell: Callable[[str, str], None], ending: asyncio.Event
) -> None:
    while line := await output.readline():
        said = line.decode("utf-8", "replace").strip()
        if (arrival := _document(said)) is None:
            tell(NAME, said)
            continue
        kept.write(said + os.linesep)
        kept.flush()
        tell(NAME, words_of(arrival))
    if not ending.is_set():
        tell(NAME, "ended: nothing that is sent arrives; end gregor dev and start it again")


def _document(line: str) -> dict[str, Any] | None:
    try:
        found = json.loads(line)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def words_of(arrival: Mapping[str, Any]) -> str:
    """An arrival in plain words: `APNs, alice: "kbob just joined" (You shared files.); badge 3`."""
    where = PROVIDERS.get(arrival["channel"], arrival["channel"])
    user = f", {arrival['user']}" if arrival.get("user") else ""
    text = f" ({arrival['text']})" if arrival.get("text") else ""
    withdrawn = ", ".join(arrival.get("withdraw") or ())
    parts = [
        f'"{arrival["title"]}"{text}' if arrival.get("title") else "nothing to show",
        *([f"takes away {withdrawn}"] if withdrawn else []),
        *([f"opens {arrival['link']}"] if arrival.get("link") else []),
        *([f"badge {arrival['badge']}"] if arrival.get("badge") is not None else []),
    ]
    return " ".join(f"{where}{user}: {'; '.join(parts)}".split())
