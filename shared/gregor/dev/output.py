"""What `gregor dev` says: one JSON line for machines, or addresses and commands to paste for people."""

import json
import os
import shlex
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

from .fake_providers import NAME as FAKES
from .plan import Plan

_COLOURS = (36, 33, 35, 32, 34, 31)
EXAMPLE = {
    "system": "gregor",
    "body": {"create": {"5d44d2ad9aabab30": {"category": "user.joined", "body": {"keybase": "kbob"}}}},
}
"""The first message to paste: the seed's own."""


def ready_line(plan: Plan, redis: str, key: str) -> str:
    """The one line of `--json` (protocol.md, "Command line and settings")."""
    line: dict[str, object] = {
        "ingest": plan.ingest_urls[0],
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


def ready_words(plan: Plan, redis: str, key: str) -> str:
    """Addresses, the key, and three commands that show one state in two terminals."""
    ingest = plan.ingest_urls[0]
    command = command_as_typed(sys.argv[0], shutil.which("gregor"), Path.cwd())
    places = [
        *(("ingest", f"{url}  (docs: {url}/docs)") for url in plan.ingest_urls),
        *(("gateway", f"{url}/v1/connect") for url in plan.gateway_urls),
        *(("stream", f"{url}/v1/stream") for url in plan.stream_urls),
        ("redis", redis),
        ("key", key),
    ]
    return "\n".join(
        [
            "Gregor is ready; Ctrl-C ends it.",
            "",
            *(f"  {name:<8} {place}" for name, place in places),
            "",
            "Two devices of alice, each in a terminal of its own:",
            f"  {command} watch alice --device phone",
            f"  {command} watch alice --device laptop",
            "",
            "An item for her, and its dismissal:",
            f"  curl -s {ingest}/v1/users/alice/messages -H 'Authorization: Bearer {key}' \\",
            f"    -H 'Content-Type: application/json' -d {shlex.quote(json.dumps(EXAMPLE))}",
            f"  {command} send alice --dismiss 5d44d2ad9aabab30",
            "",
            *(_words_of_fakes(ingest, key) if plan.fakes is not None else ()),
        ]
    )


def _words_of_fakes(ingest: str, key: str) -> list[str]:
    """How to see a push arrive; docs/explanation/delivery.md goes through the rest of it."""
    phone = json.dumps({"platform": "ios", "push": {"provider": "apns", "token": "a11ce0"}})
    return [
        f"A phone of alice, for pushes that arrive at the fake providers (lines that begin with {FAKES}):",
        f"  curl -s -X PUT {ingest}/v1/users/alice/devices/phone -H 'Authorization: Bearer {key}' \\",
        f"    -H 'Content-Type: application/json' -d {shlex.quote(phone)}",
        "",
    ]


def command_as_typed(called: str, found: str | None, here: Path) -> str:
    """How to type this command in the directory `here`: `called` is argv[0], `found` what PATH has under our name."""
    place = Path(called)
    if called == found:
        return place.name
    if place.is_absolute() and place.is_relative_to(here):
        place = place.relative_to(here)
    return shlex.quote(str(place))


def teller(names: list[str]) -> Callable[[str, str], None]:
    """`tell(name, line)`: a line of a process on stderr, its name before it, in its own colour on a terminal."""
    width = max(map(len, names))
    coloured = sys.stderr.isatty() and "NO_COLOR" not in os.environ
    colours = {name: _COLOURS[n % len(_COLOURS)] for n, name in enumerate(names)}

    def tell(name: str, line: str) -> None:
        prefix = f"{name:<{width}} |"
        if coloured:
            prefix = f"\x1b[{colours.get(name, 37)}m{prefix}\x1b[0m"
        print(prefix, line, file=sys.stderr, flush=True)

    return tell
