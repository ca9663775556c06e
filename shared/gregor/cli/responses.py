"""Responses of a server that a command calls. It may not be Gregor, or be hostile: each fault is a CommandError."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Never

import httpx

from gregor.client.errors import error_of
from gregor.net.bounded_responses import LineSplitter, compression_fault

from .errors import CommandError

MAX_ANSWER_BYTES = 64 << 20
"""Maximum length of a response, and of a line of an export. Ingest sends far less."""
_hosts: ContextVar[list[str] | None] = ContextVar("hosts", default=None)
"""The hosts whose documents the command has read so far."""


def read_bounded(response: httpx.Response) -> httpx.Response:
    """Return a response with its content. Raises CommandError if it is compressed or too long."""
    refuse_compressed(response)
    content = bytearray()
    for chunk in response.iter_raw():
        content += chunk
        if len(content) > MAX_ANSWER_BYTES:
            raise too_long(str(response.request.url))
    return httpx.Response(
        response.status_code, headers=response.headers, content=bytes(content), request=response.request
    )


def refuse_compressed(response: httpx.Response) -> None:
    """Raise CommandError for a compressed response, before its content is read."""
    if (fault := compression_fault(response.headers)) is not None:
        raise CommandError(f"{response.request.url.host}: {fault}")


def line_splitter() -> LineSplitter:
    """Return a splitter of a long response into lines of at most ``MAX_ANSWER_BYTES``."""
    return LineSplitter(MAX_ANSWER_BYTES)


def too_long(url: str) -> CommandError:
    """Return the error for a server that sends more than ``MAX_ANSWER_BYTES``."""
    return CommandError(f"{url} sent more than {MAX_ANSWER_BYTES >> 20} MiB at once: is it Gregor?")


# Documents, and their shape.


class _Document(dict[str, Any]):
    """A JSON object of an answer, which names a member that it lacks."""

    def __missing__(self, name: str) -> Never:
        raise CommandError(
            f'the response has no member "{name}"; check that the URL is Gregor\'s, and that the server is not '
            "older than this command"
        )


def document_of(response: httpx.Response) -> dict[str, Any]:
    """Return the JSON object of a response.

    Raises CommandError if it has none, and later for each missing member. ``expected_shapes`` covers members of
    other types.
    """
    host = response.request.url.host
    try:
        document = json.loads(response.content, object_hook=_Document)
    except (ValueError, RecursionError) as error:
        raise CommandError(f"{host} did not answer with JSON: is it Gregor?") from error
    if not isinstance(document, dict):
        raise CommandError(f"{host} did not answer with a JSON object: is it Gregor?")
    if (hosts := _hosts.get()) is not None:
        hosts.append(host)
    return document


@contextmanager
def expected_shapes(status: int = 1) -> Iterator[None]:
    """Raise CommandError if the commands inside fail over a document of another shape.

    ``status``: exit status of each failed call. An error before the first document is a fault of the command, and
    passes unchanged.
    """
    hosts: list[str] = []
    token = _hosts.set(hosts)
    try:
        yield
    except CommandError as error:
        error.status = max(error.status, status)
        raise
    # A member of another type fails wherever it is used: as a mapping, a number, a time or a text to join.
    except (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError) as error:
        if not hosts:
            raise
        text = f"{hosts[-1]} sent JSON of another shape ({type(error).__name__}: {error})"
        failure = CommandError(f"{text[:500]}; is it Gregor, and not older than this command?")
        failure.status = status
        raise failure from error
    finally:
        _hosts.reset(token)


# Refusals.


def refusal_of(response: httpx.Response) -> CommandError:
    """Return the problem of a response as one line: code, detail, and the invalid fields."""
    host = response.request.url.host
    if not response.is_error:  # never followed: the key belongs to the host that the operator named
        target = response.headers.get("location", "")[:200]
        text = f"{host} answered {response.status_code}" + (f", a redirect to {target}" if target else "")
        return CommandError(f"{text}; give the final URL with --url or GREGOR_URL", {"status": response.status_code})
    try:
        problem = response.json()
        text = str(error_of({**problem, "code": problem["code"]}))
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
        return CommandError(f"{host} answered {response.status_code}", {"status": response.status_code})
    fix = " Give another key with --key or GREGOR_KEY." if response.status_code == 401 else ""
    return CommandError(text.replace(".; ", "; ") + fix, problem)
