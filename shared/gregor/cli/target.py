"""The Gregor that a command calls, and how it calls it."""

import os
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any
from urllib.parse import urlsplit, urlunsplit

import httpx
import typer

from gregor.blocking_http import RequestDeadline, blocking_client
from gregor.client import calls
from gregor.net.bounded_responses import UNCOMPRESSED, ResponseTooLong

from .environment import secret_variable
from .errors import CommandError
from .responses import document_of, line_splitter, read_bounded, refusal_of, refuse_compressed, too_long
from .state_file import RunningDev, read_running

Url = Annotated[str | None, typer.Option("--url", help="URL of ingest (else GREGOR_URL, else the running gregor dev).")]
Key = Annotated[str | None, typer.Option("--key", help="Service key (else GREGOR_KEY, else that of gregor dev).")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]
TIMEOUT_S = 30.0
"""Maximum silence of a server, and the time for the head of an export and for each of its parts."""
TOTAL_S = 120.0
"""Maximum time of a request with its response: 64 MiB at about 0.7 MiB/s. An export may take longer."""
LIST_S = 900.0
"""Maximum time that all pages of a list together are waited for."""
MAX_PAGES = 10_000
MAX_PORT = 65_535
MAX_LIST_BYTES = 512 << 20
"""Maximum length of all pages of a list together: a command holds them in memory."""


@dataclass(frozen=True, slots=True)
class Target:
    """Ingest of a running Gregor, and a service key for it."""

    url: str
    key: str

    def call(self, method: str, path: str, query: dict[str, Any] | None = None, body: object = None) -> dict[str, Any]:
        """Return the document that ingest answers, empty if it answers without content.

        Raises CommandError as ``send`` does, and if the answer is not a JSON object.
        """
        response = self.send(method, path, query, body)
        return document_of(response) if response.content else {}

    def send(
        self,
        method: str,
        path: str,
        query: dict[str, Any] | None = None,
        body: object = None,
        *,
        may_be_missing: bool = False,
    ) -> httpx.Response:
        """Return the response of ingest. Raises CommandError if ingest cannot be reached, or refuses the call.

        ``may_be_missing``: a 404 is returned instead of raised.
        """
        query = {name: value for name, value in (query or {}).items() if value not in (None, [], ())}
        try:
            with (
                blocking_client(timeout=RequestDeadline(TOTAL_S).timeouts(TIMEOUT_S, TIMEOUT_S)) as http,
                http.stream(
                    method,
                    self.url.rstrip("/") + path,
                    params=query or None,  # an empty mapping would remove the query of a path that has one
                    json=body,
                    headers=self._headers,
                ) as response,
            ):
                answer = read_bounded(response)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            reason = str(error) or type(error).__name__
            raise CommandError(f"{self.url} cannot be reached: {reason}; is gregor dev running?") from error
        if not answer.is_success and not (may_be_missing and answer.status_code == 404):
            raise refusal_of(answer)
        return answer

    @property
    def _headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.key}", **UNCOMPRESSED}

    def pages(self, path: str, query: dict[str, Any] | None = None) -> Iterator[dict[str, Any]]:
        """Yield the documents of all pages of a list.

        Raises CommandError as ``call`` does, and for links that lead to another server, repeat, or do not end.
        """
        seen: set[str] = set()
        size, waited_s = 0, 0.0
        while path:
            began_s = time.monotonic()
            response = self.send("GET", path, query)
            waited_s += time.monotonic() - began_s
            size += len(response.content)
            yield document_of(response)
            path, query = response.links.get("next", {}).get("url", ""), None
            # The path is appended to the URL: `@other.example/` or `.example/` would send the key to another host.
            if path and not path.startswith("/"):
                raise CommandError(f"{self.url} links to a page of another server: is it Gregor?")
            if path in seen or len(seen) == MAX_PAGES or size > MAX_LIST_BYTES:
                raise CommandError(f"{self.url} sent a list that does not end: is it Gregor?")
            if path and waited_s > LIST_S:
                raise CommandError(f"{self.url} sent a list that did not end within {LIST_S:g} s")
            seen.add(path)

    def lines(self, path: str) -> Iterator[bytes]:
        """Yield the lines of a long response while they arrive. Raises CommandError as ``call`` does."""
        deadline = RequestDeadline(TIMEOUT_S)
        url, timeout = self.url.rstrip("/") + path, deadline.timeouts(TIMEOUT_S)
        try:
            with blocking_client(timeout=timeout) as http, http.stream("GET", url, headers=self._headers) as response:
                if not response.is_success:
                    raise refusal_of(read_bounded(response))
                refuse_compressed(response)
                split = line_splitter()
                for chunk in response.iter_raw():
                    yield from split.feed(chunk)
                    deadline.move(TIMEOUT_S)  # after the lines: their output may be slow
        except ResponseTooLong as error:
            raise too_long(self.url) from error
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            reason = str(error) or type(error).__name__
            raise CommandError(f"{self.url} did not send a complete response: {reason}; repeat the command") from error


def path_segment(name: str) -> str:
    """Return an argument as one segment of a path. Raises BadParameter for an empty one, `.` and `..`."""
    try:
        return calls.path_segment(name)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error


def find_target(url: str | None, key: str | None) -> Target:
    """Return the Gregor of the options, the environment, or a running `gregor dev`.

    Raises CommandError if there is none, or if GREGOR_REDIS_URL names another deployment than this `gregor dev`.
    """
    url = _ingest_url(url)
    running = _running_dev(url)
    if url is None:
        if running is None:
            raise CommandError("no running Gregor is known: start `gregor dev`, or name one with --url and --key")
        url = running.ingest
    key = key or secret_variable("KEY") or (running.key if running else None)
    if key is None:
        fix = "give --key, GREGOR_KEY or GREGOR_KEY_FILE (gregor keys create makes one without GREGOR_URL)"
        raise CommandError(f"no service key for {url}: {fix}")
    if not is_header_text(key):
        raise CommandError("--key or GREGOR_KEY is not a service key: only letters, digits, _ and - are possible")
    return Target(url, key)


def _running_dev(ingest: str | None) -> RunningDev | None:
    """Return the running `gregor dev` with this URL of ingest, or the last started one if the URL is ``None``.

    Raises CommandError if no URL is given and GREGOR_REDIS_URL names another Redis: `gregor keys` would use that one.
    """
    running = read_running(os.environ, ingest)
    if ingest is None and running is not None and (redis := secret_variable("REDIS_URL")) is not None:
        dev_server, own_server = _redis_server(running.redis), _redis_server(redis)
        if dev_server != own_server:
            raise CommandError(
                f"GREGOR_REDIS_URL names the Redis {own_server}, but the running gregor dev at {running.ingest} uses "
                f"{dev_server}; set GREGOR_URL to the ingest to call, or unset GREGOR_REDIS_URL to call gregor dev"
            )
    return running


def _redis_server(url: str) -> str:
    """Return host, port and database of a Redis URL, normalized and without the credentials."""
    place = url.partition("://")[2].rpartition("@")[2].partition("?")[0].removesuffix("/").removesuffix("/0")
    return re.sub(":6379(?=/|$)", "", re.sub("^localhost(?=[:/]|$)", "127.0.0.1", place))


def check_url(option: str, url: str | None, scheme: str) -> None:
    """Raise BadParameter for a URL that can never be reached: retries would not help."""
    if url is not None and not _is_url(url, scheme):
        raise typer.BadParameter(f"it is not a URL; {_url_form(scheme)}", param_hint=option)


def _ingest_url(given: str | None) -> str | None:
    """Return the URL of ingest: --url, else GREGOR_URL. Raises BadParameter or CommandError if it is malformed."""
    check_url("--url", given or None, "http")
    url = given or os.environ.get("GREGOR_URL") or None
    if url is not None and not _is_url(url, "http"):
        raise CommandError(f"GREGOR_URL is not a URL; {_url_form('http')}")
    return url


def _url_form(scheme: str) -> str:
    return f"write {scheme}://host:port or {scheme}s://host"


def _is_url(text: str, scheme: str) -> bool:
    """Return whether a text is a URL of this scheme or its TLS variant, with a valid host and port."""
    try:
        parts = urlsplit(text)
        # httpx refuses more than urlsplit: control characters, and invalid host names.
        host, port = httpx.URL(text).host, parts.port
    except (ValueError, httpx.InvalidURL):
        return False
    return parts.scheme in (scheme, f"{scheme}s") and bool(parts.hostname) and bool(host) and port != 0


def websocket_url(given: str | None, url: str | None) -> str:
    """Return the URL of the gateway's WebSockets: as given, as `gregor dev` wrote it, or by the port of ingest."""
    return _gateway_url(given, "gateway", 1, "ws", url)


def stream_url(given: str | None, url: str | None) -> str:
    """Return the URL of the gateway's streams: as given, as `gregor dev` wrote it, or by the port of ingest."""
    return _gateway_url(given, "stream", 2, "http", url)


def _gateway_url(given: str | None, member: str, offset: int, scheme: str, url: str | None) -> str:
    """Return a URL of the gateway. ``member``: its option and its name in the state file of `gregor dev`."""
    if given:
        return given.rstrip("/")
    ingest = _ingest_url(url)
    if running := _running_dev(ingest):
        return str(getattr(running, member))
    if ingest is None:
        raise CommandError(f"no running Gregor is known: start `gregor dev`, or name a gateway with --{member}")
    parts = urlsplit(ingest)
    if parts.port is None or parts.port + offset > MAX_PORT:
        raise CommandError(f"name the gateway with --{member}: {ingest} has no port to derive it from")
    secure = "s" if parts.scheme == "https" else ""
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
    return urlunsplit((scheme + secure, f"{host}:{parts.port + offset}", "", "", ""))


def is_header_text(token: str) -> bool:
    """Return whether a token or key can be sent in a header.

    Otherwise an error message would show the whole header.
    """
    return re.fullmatch(r"[!-~]+", token) is not None
