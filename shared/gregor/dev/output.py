"""The output of `gregor dev`: one JSON line for programs, or addresses and commands to paste for people."""

import json
import os
import shlex
import shutil
import sys
from pathlib import Path

from .fake_providers import NAME as FAKES
from .plan import DevPlan
from .supervisor import PrintLine

_COLOURS = (36, 33, 35, 32, 34, 31)
_EXAMPLE = {"category": "user.joined", "body": {"keybase": "kbob"}}


def ready_line(plan: DevPlan, redis: str, key: str) -> str:
    """Return the one line of `--json`."""
    line: dict[str, object] = {
        "ingest": plan.ingest_urls[0],
        "demo": plan.demo_url,
        "gateway": plan.gateway_urls[0],
        "stream": plan.stream_urls[0],
        "ingests": plan.ingest_urls,
        "gateways": plan.gateway_urls,
        "streams": plan.stream_urls,
        "scheduler": plan.scheduler_url,
        "delivery": plan.delivery_url,
        "redis": redis,
        "queue": plan.queue or redis,
        "key": key,
    }
    if plan.fakes is not None:
        line["fakes"] = {"arrivals": str(plan.fakes.arrivals), "subscription": plan.fakes.subscription}
    return json.dumps(line)


def ready_text(plan: DevPlan, redis: str, key: str, data: Path | None) -> str:
    """Return addresses, the key to export, and three commands that show one state in two terminals."""
    ingest = plan.ingest_urls[0]
    command = command_as_typed(sys.argv[0], shutil.which("gregor"), Path.cwd())
    addresses = [
        ("demo", f"{plan.demo_url}  (two devices of one user: open it in a browser)"),
        ("pages", f"{ingest}/  (API reference: {ingest}/docs)"),
        *(("ingest", url) for url in plan.ingest_urls),
        *(("gateway", f"{url}/v1/connect") for url in plan.gateway_urls),
        *(("stream", f"{url}/v1/stream") for url in plan.stream_urls),
        ("redis", redis),
        ("state", _kept_text(data)),
    ]
    return "\n".join(
        [
            "Gregor is ready. Ctrl-C stops it.",
            "",
            *(f"  {name:<8} {address}" for name, address in addresses),
            "",
            "The service key, for curl and for your backend:",
            f"  export GREGOR_KEY={key}",
            "",
            "Two devices of alice, each in its own terminal:",
            f"  {command} watch alice --device phone",
            f"  {command} watch alice --device laptop",
            "",
            "An item for her, and its dismissal:",
            f'  curl -s {ingest}/v1/users/alice/messages -H "Authorization: Bearer $GREGOR_KEY" \\',
            f"    -H 'Content-Type: application/json' -d {_example_message()}",
            f"  {command} send alice --dismiss-category user.joined",
            "",
            *(_text_of_fakes(ingest) if plan.fakes is not None else ()),
        ]
    )


def _kept_text(data: Path | None) -> str:
    if data is None:
        return "not kept after the end"
    home = str(Path.home())
    shown = "~" + str(data)[len(home) :] if str(data).startswith(home + os.sep) else str(data)
    return f"kept in {shown}  (--fresh starts with an empty one)"


def _example_message() -> str:
    """Return the first message to paste, as a word of the shell.

    Its id is new each time, since an id never comes back.
    """
    item_id = "joined-TIME"
    message = json.dumps({"system": "gregor", "body": {"create": {item_id: _EXAMPLE}}})
    return shlex.quote(message).replace("TIME", "'$(date +%s)'")


def _text_of_fakes(ingest: str) -> list[str]:
    """Return commands that make a push arrive at a fake provider."""
    phone = json.dumps({"platform": "ios", "push": {"provider": "apns", "token": "a11ce0"}})
    return [
        f"A phone of alice, for pushes that arrive at the fake providers (lines that begin with {FAKES}):",
        f'  curl -s -X PUT {ingest}/v1/users/alice/devices/phone -H "Authorization: Bearer $GREGOR_KEY" \\',
        f"    -H 'Content-Type: application/json' -d {shlex.quote(phone)}",
        "",
    ]


def command_as_typed(called: str, found: str | None, here: Path) -> str:
    """Return how to type this command in the directory `here`: `called` is argv[0], `found` the `gregor` on PATH."""
    program = Path(called)
    if called == found:
        return program.name
    if program.is_absolute() and program.is_relative_to(here):
        program = program.relative_to(here)
    return shlex.quote(str(program))


def line_printer(names: list[str]) -> PrintLine:
    """Return a function that prints a line of a process on stderr after its name, coloured on a terminal."""
    width = max(map(len, names))
    coloured = sys.stderr.isatty() and "NO_COLOR" not in os.environ
    colours = {name: _COLOURS[n % len(_COLOURS)] for n, name in enumerate(names)}

    def print_line(name: str, line: str) -> None:
        prefix = f"{name:<{width}} |"
        if coloured:
            prefix = f"\x1b[{colours.get(name, 37)}m{prefix}\x1b[0m"
        print(prefix, line, file=sys.stderr, flush=True)

    return print_line
