"""Which Gregor a command speaks to, and how it calls it."""

import os
import re
from dataclasses import dataclass
from typing import Annotated, Any

import httpx
import typer

from gregor.clock import SystemClock
from gregor.config.settings import load_settings, parse_duration

from .errors import Failure
from .state_file import read_running

Url = Annotated[str | None, typer.Option("--url", help="URL of ingest (else GREGOR_URL, else the running gregor dev).")]
Key = Annotated[str | None, typer.Option("--key", help="Service key (else GREGOR_KEY, else that of gregor dev).")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, for machines.")]
TIMEOUT_S = 30.0


@dataclass(frozen=True, slots=True)
class Target:
    """Ingest of a running Gregor and a service key for it."""

    url: str
    key: str

    def call(
        self,
        method: str,
        path: str,
        query: dict[str, Any] | None = None,
        body: object = None,
        *,
        may_be_gone: bool = False,
    ) -> httpx.Response:
        """The answer of ingest. Failure where it cannot be reached, or refuses (with the words of its problem).

        ``may_be_gone``: a 404 is an answer too.
        """
        query = {name: value for name, value in (query or {}).items() if value not in (None, [], ())}
        try:
            answer = httpx.request(
                method,
                self.url.rstrip("/") + path,
                params=query or None,  # an empty one would take away what the path has
                json=body,
                headers={"Authorization": f"Bearer {self.key}"},
                timeout=TIMEOUT_S,
            )
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise Failure(
                f"{self.url} cannot be reached: {error or type(error).__name__}; is gregor dev running?"
            ) from error
        if answer.is_error and not (may_be_gone and answer.status_code == 404):
            mend = " Give another with --key or GREGOR_KEY." if answer.status_code == 401 else ""
            raise Failure(_words_of(answer) + mend)
        return answer


def find_target(url: str | None, key: str | None) -> Target:
    """By the options, the environment, or what `gregor dev` left; Failure where there is neither."""
    running = read_running(os.environ)
    url = url or os.environ.get("GREGOR_URL") or (running.ingest if running else None)
    if url is None:
        raise Failure("no running Gregor is known: start `gregor dev`, or name one with --url and --key")
    key = (
        key or os.environ.get("GREGOR_KEY") or (running.key if running and running.ingest == url.rstrip("/") else None)
    )
    if key is None:
        raise Failure(f"no service key for {url}: give --key or GREGOR_KEY (gregor keys create makes one)")
    if not is_header_text(key):
        raise Failure("what was given as --key or GREGOR_KEY is no key: letters, digits, _ and - alone")
    return Target(url, key)


def is_header_text(token: str) -> bool:
    """Whether a token or key can stand in a header: what else is said of it would be said of the whole header."""
    return re.fullmatch(r"[!-~]+", token) is not None


def now_s() -> float:
    """The time of the services (Unix seconds): by the setting, else as the running `gregor dev` has it."""
    running = read_running(os.environ)
    settings = load_settings(os.environ)
    offset_s = settings.clock_offset_s
    if running is not None and "clock_offset_s" not in settings.model_fields_set:
        offset_s = running.clock_offset_s
    return SystemClock(offset_s).now_us() / 1e6


def past_moment(text: str, option: str) -> str:
    """`-2d` before now, or Unix seconds, as Unix seconds; BadParameter for anything else."""
    if re.fullmatch(r"\d+(\.\d{1,6})?", text):
        return text
    try:
        if text.startswith("-"):
            return f"{now_s() - parse_duration(text[1:]):.6f}"
    except ValueError:
        pass
    raise typer.BadParameter(f"{text} is not a time; write -2d (two days ago), or Unix seconds", param_hint=option)


def _words_of(answer: httpx.Response) -> str:
    """The problem of an answer in one line: code, detail, and where in the message."""
    try:
        problem = answer.json()
        words = f"{problem['code']}: {problem.get('detail') or problem.get('title')}"
        places = [f"{place['pointer']}: {place['detail']}" for place in problem.get("errors", [])]
    except (ValueError, KeyError, TypeError):
        return f"{answer.request.url.host} answered {answer.status_code}"
    # The detail of a problem may be that of its first place.
    sentences = [words, *(place for place in places if place not in words)]
    return "; ".join([*(sentence.removesuffix(".") for sentence in sentences[:-1]), sentences[-1]])
