"""Fake providers of `gregor dev --fake-providers`: a process that accepts pushes and mails and reports each arrival.

It runs as a module in its own process, as the services do: the command line imports none of them.
"""

import asyncio
import json
import os
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from gregor.config.settings import VARIABLES

from .errors import DevError
from .processes import end_with_parent, inherited_environ, module_command
from .supervisor import PrintLine

MODULE = "gregor.dev.fakes"
NAME = "fakes"
"""The prefix of its lines."""
READY_S = 30.0
STOP_S = 5.0
PROVIDERS = {"apns": "APNs", "fcm": "FCM", "webpush": "Web Push", "email": "mail"}
_LINE_BYTES = 1_048_576
_REAL = ("GREGOR_APNS_", "GREGOR_FCM_", "GREGOR_VAPID_", "GREGOR_WEBPUSH_", "GREGOR_SMTP_", "GREGOR_MAIL_")


@dataclass(frozen=True, slots=True)
class FakeProviders:
    """Running fakes. `settings` point Gregor to them; `arrivals` is a file with one line of JSON for each arrival.

    `subscription`: a browser's subscription that the fake Web Push service accepts.
    """

    settings: Mapping[str, str] = field(repr=False)
    subscription: Mapping[str, Any] = field(repr=False)
    arrivals: Path

    def environ(self, given: Mapping[str, str]) -> dict[str, str]:
        """Return the environment `given` with the settings of the fakes, and without those of real providers."""
        kept = {name: value for name, value in given.items() if not name.startswith(_REAL)}
        return kept | {name: value for name, value in self.settings.items() if name in VARIABLES}


@asynccontextmanager
async def fake_providers(data: Path | None, print_line: PrintLine) -> AsyncIterator[FakeProviders]:
    """Run the fakes and print a line for each arrival. Their files are kept in `data`, else deleted at the end.

    Raises DevError if they do not start.
    """
    with tempfile.TemporaryDirectory(prefix="gregor-fakes-") as temporary:
        directory = Path(temporary) if data is None else data / "fakes"
        directory.mkdir(mode=0o700, exist_ok=True)
        process = await _start(directory)
        output, entrance = process.stdout, process.stdin
        assert output is not None and entrance is not None  # noqa: S101 - pipes were requested
        ending = asyncio.Event()
        try:
            first = await _first_line(process, output)
            arrivals = directory / "arrivals.jsonl"
            with arrivals.open("w", encoding="utf-8") as kept:
                reporting = asyncio.create_task(_report_arrivals(output, kept, print_line, ending))
                yield FakeProviders(first["settings"], first["subscription"], arrivals)
                ending.set()
                entrance.close()  # they end when their standard input closes
                await asyncio.wait([reporting], timeout=STOP_S)
                reporting.cancel()
        finally:
            if process.returncode is None:
                process.kill()
            await process.wait()


async def _start(directory: Path) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *module_command(MODULE, str(directory)),
        env={**inherited_environ(), "PYTHONUNBUFFERED": "1"},
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        limit=_LINE_BYTES,
        start_new_session=True,  # Ctrl-C must reach only us
        preexec_fn=end_with_parent(),
    )


async def _first_line(process: asyncio.subprocess.Process, output: asyncio.StreamReader) -> dict[str, Any]:
    last_line = ""
    try:
        async with asyncio.timeout(READY_S):
            while line := await output.readline():
                last_line = line.decode("utf-8", "replace").strip()
                if (document := _document(last_line)) is not None:
                    return document
    except TimeoutError:
        raise DevError(f"the fake providers are not ready after {READY_S:g} s") from None
    await process.wait()
    raise DevError(f"the fake providers do not start: {last_line or 'they printed nothing'}")


async def _report_arrivals(
    output: asyncio.StreamReader, kept: IO[str], print_line: PrintLine, ending: asyncio.Event
) -> None:
    while line := await output.readline():
        text = line.decode("utf-8", "replace").strip()
        if (arrival := _document(text)) is None:
            print_line(NAME, text)
            continue
        kept.write(text + os.linesep)
        kept.flush()
        print_line(NAME, arrival_text(arrival))
    if not ending.is_set():
        print_line(NAME, "ended: pushes and mails do not arrive any more; restart gregor dev")


def _document(line: str) -> dict[str, Any] | None:
    try:
        found = json.loads(line)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def arrival_text(arrival: Mapping[str, Any]) -> str:
    """Return an arrival as one line for people: `APNs, alice: "kbob just joined" (You shared files.); badge 3`."""
    provider = PROVIDERS.get(arrival["channel"], arrival["channel"])
    user = f", {arrival['user']}" if arrival.get("user") else ""
    text = f" ({arrival['text']})" if arrival.get("text") else ""
    withdrawn = ", ".join(arrival.get("withdraw") or ())
    parts = [
        f'"{arrival["title"]}"{text}' if arrival.get("title") else "no visible text",
        *([f"withdraws {withdrawn}"] if withdrawn else []),
        *([f"opens {arrival['link']}"] if arrival.get("link") else []),
        *([f"badge {arrival['badge']}"] if arrival.get("badge") is not None else []),
    ]
    return " ".join(f"{provider}{user}: {'; '.join(parts)}".split())
