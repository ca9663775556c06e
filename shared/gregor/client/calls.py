"""The calls of a backend without any I/O: requests are made and responses are read here (docs/reference/http.md).

A call is a generator. It yields `ApiRequest`s, receives `ApiResponse`s, and returns its result. `with_retries` adds
deadline and backoff. The two producers (`producer.py`) only send the requests and sleep.
"""

from __future__ import annotations

import json
import random
import re
import secrets
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Literal, NotRequired, TypedDict, TypeVar
from urllib.parse import quote, urlsplit

from gregor.core.backoff import backoff_s
from gregor.core.items.frames import ReceiptMembers, check_shape
from gregor.core.json_text import decode_published
from gregor.core.limits import Limits

from .changes import Item
from .errors import GregorError, ItemIgnored, NotFound, UnexpectedResponse, Unreachable, error_of
from .messages import (
    CreateReceipt,
    Message,
    MessageReceipt,
    Time,
    TimeOrOffset,
    creation,
    dismissal,
    gregor,
    needs_id,
    read_create_receipt,
    read_receipt,
    reason_not_created,
    seconds_of,
    snoozed,
    unix_seconds,
)
from .outbox import is_retryable

MAX_LINES = min(Limits().batch, Limits().batch_fanout)
MAX_CALL_BYTES = Limits().batch_bytes // 2
"""Half of the server's default limit: fewer lines to repeat if one call fails."""
MAX_RESPONSE_BYTES = 64 << 20
"""Maximum length of a response. Ingest sends far less."""
FIRST_DELAY_S = 0.1
MAX_DELAY_S = 5.0
NDJSON = "application/x-ndjson"
REPLICATED = {"Gregor-Durability": "replicated"}
"""The header with which a message waits for replicas of the store; reads ignore it."""

T = TypeVar("T")
Line = Mapping[str, Any]
"""One line of `send_many`: `{"uid" | "uids", "system", "body"}`, optionally `"id"` and `"device"`."""


# Documents that the server returns.


class StateDocument(TypedDict):
    """The live items of a user. `cursor` and `badge` are absent in a state of the past (`at`)."""

    digest: str
    items: dict[str, Item]
    cursor: NotRequired[str]
    badge: NotRequired[int]
    rendered: NotRequired[dict[str, dict[str, Any]]]


class ItemDocument(TypedDict):
    """One item, live or gone. `gone` is None while it is live, else `{"at", "reason", "device", "seq"}`."""

    id: str
    item: Item
    seq: int
    gone: dict[str, Any] | None
    timeline: NotRequired[list[dict[str, Any]]]


class BatchOutcome(TypedDict):
    """The outcome of one (line, uid) of `send_many`: a `receipt`, or the RFC 9457 `problem`."""

    line: int
    uid: str | None
    receipt: NotRequired[dict[str, Any]]
    problem: NotRequired[dict[str, Any]]


class _HistoryPage(TypedDict):
    entries: list[ItemDocument]


# Steps of a call.


@dataclass(frozen=True, slots=True)
class ApiRequest:
    """One HTTP request, relative to the URL of ingest."""

    method: str
    path: str
    query: Mapping[str, Any] = field(default_factory=dict)
    content: bytes | None = None
    content_type: str = "application/json"

    @property
    def headers(self) -> dict[str, str]:
        """The headers that belong to the content."""
        return {} if self.content is None else {"Content-Type": self.content_type}


@dataclass(frozen=True, slots=True)
class ApiResponse:
    """One HTTP response; header names are in lower case."""

    status: int
    content: bytes
    headers: Mapping[str, str] = field(default_factory=dict)
    next_url: str | None = None
    """The URL in the `Link` header with `rel="next"`."""

    def document(self, shape: type[T]) -> T:
        """Return the content as JSON. Raises `UnexpectedResponse` if it is not JSON of this shape (a TypedDict)."""
        return _checked(self.content, shape)


@dataclass(frozen=True, slots=True)
class TransportFailure:
    """No response arrived: the reason, as the operating system states it."""

    reason: str


@dataclass(frozen=True, slots=True)
class Attempt:
    """Send the request, and give up after `timeout_s`."""

    request: ApiRequest
    timeout_s: float


@dataclass(frozen=True, slots=True)
class Wait:
    """Wait before the next attempt. A call that yields it receives whether the deadline allows the wait."""

    seconds: float


@dataclass(frozen=True, slots=True)
class RestartDeadline:
    """The call has made progress: its deadline starts again."""


ApiCall = Generator[ApiRequest | Wait | RestartDeadline, Any, T]
"""A call as pure logic; it knows nothing of retries."""
RetriedCall = Generator[Attempt | Wait, ApiResponse | TransportFailure | None, T]
"""A call for a producer to perform: it sends each `Attempt`, sleeps for each `Wait`."""


# Retries.


def with_retries(call: ApiCall[T], timeout_s: float, monotonic: Callable[[], float]) -> RetriedCall[T]:
    """Perform a call within a deadline; repeat requests that got no response, or one that asks to try again.

    Raises `Unreachable`, or the family of the last problem, as soon as the deadline leaves no time for another attempt.
    """
    deadline_s = monotonic() + timeout_s
    reply: Any = None
    error: GregorError | None = None
    while True:
        try:
            # The call may handle an error: `cancel` turns NotFound into its result.
            step = call.send(reply) if error is None else call.throw(error)
        except StopIteration as done:
            result: T = done.value
            return result
        # An item of another shape, which `snooze` reads.
        except (ArithmeticError, AttributeError, LookupError, TypeError) as raised:
            if not isinstance(reply, ApiResponse):
                raise
            raise UnexpectedResponse(f"the response has another shape: {raised!r:.300}") from raised
        reply = error = None
        if isinstance(step, ApiRequest):
            try:
                reply = yield from _response_of(step, deadline_s, monotonic)
            except GregorError as raised:
                error = raised
        elif isinstance(step, Wait):
            reply = monotonic() + step.seconds < deadline_s
            if reply:
                yield step
        else:
            deadline_s = monotonic() + timeout_s


def _response_of(request: ApiRequest, deadline_s: float, monotonic: Callable[[], float]) -> RetriedCall[ApiResponse]:
    attempt = 0
    while True:
        attempt += 1
        outcome = yield Attempt(request, max(0.001, deadline_s - monotonic()))
        error: GregorError
        retry_after_s = 0.0
        if isinstance(outcome, ApiResponse):
            if 200 <= outcome.status < 300:
                return outcome
            problem = _problem_of(outcome)
            wanted = outcome.headers.get("retry-after", "")
            is_known = re.fullmatch("[0-9]{1,9}", wanted) is not None
            retry_after_s = float(wanted) if is_known else 0.0
            error = error_of(problem, retry_after_s if is_known else None)
            if not is_retryable(problem):
                raise error
        else:
            reason = outcome.reason if outcome is not None else "no response"
            error = Unreachable(f"{request.method} {request.path}: {reason} ({attempt} attempts)")
        # Raise now if the deadline ends before the next attempt: a caller should not wait for nothing.
        delay_s = max(retry_after_s, _delay_s(attempt))
        if monotonic() + delay_s >= deadline_s:
            raise error
        yield Wait(delay_s)


def _delay_s(attempt: int) -> float:
    """Exponential backoff with full jitter, in seconds; `attempt` counts from 1."""
    return backoff_s(attempt, FIRST_DELAY_S, MAX_DELAY_S, random.uniform)


def _problem_of(response: ApiResponse) -> dict[str, Any]:
    """Return the problem in a response; if a proxy answered with a page, its status alone."""
    try:
        document = decode_published(response.content)
    except (ValueError, RecursionError):
        document = None
    if isinstance(document, dict):
        return {**document, "status": response.status}
    return {"status": response.status, "detail": response.content[:200].decode("utf-8", "replace")}


def _checked(content: bytes, shape: type[T]) -> T:
    try:
        document: T = decode_published(content)
        check_shape(document, shape)
    except (ValueError, RecursionError) as error:
        raise UnexpectedResponse(f"the response is not one of Gregor: {str(error)[:300]}") from error
    return document


# Messages.


def send(uid: str, message: Message, *, dry_run: bool = False) -> ApiCall[MessageReceipt]:
    """Send one message to one user and return its receipt.

    `dry_run=True` changes nothing; the receipt then describes the effect, and the notifications that would be planned.
    """
    return read_receipt((yield _message_request(uid, message, dry_run)).document(ReceiptMembers))


def create(
    uid: str,
    category: str,
    body: Any = None,
    *,
    item_id: str | None = None,
    for_device: str | None = None,
    created: Time | None = None,
    expires: TimeOrOffset | None = None,
    remind_at: Sequence[TimeOrOffset] = (),
    not_before: Time | None = None,
    message_id: str | None = None,
    dry_run: bool = False,
) -> ApiCall[CreateReceipt]:
    """Create an item and return the receipt with its `item_id` (random unless given).

    Raises `ItemIgnored` if the item does not exist afterwards. A repeat of the same creation is not an error. With
    `not_before` the item is created later; `cancel` takes the `message_id` of the receipt. With `dry_run=True`
    nothing is created and nothing is raised: see `ignored` and `deliveries` of the receipt.
    """
    chosen = item_id or secrets.token_hex(8)
    message = creation(
        chosen, category, body, for_device=for_device, created=created, expires=expires, remind_at=remind_at
    )
    if message_id is not None:
        message["id"] = message_id
    if not_before is not None:
        message["not_before"] = unix_seconds(not_before)
    receipt = read_create_receipt(chosen, (yield _message_request(uid, message, dry_run)).document(ReceiptMembers))
    reason = reason_not_created(chosen, receipt)
    if reason is not None and not dry_run:
        raise ItemIgnored(chosen, reason, receipt)
    return receipt


def dismiss(
    uid: str,
    *item_ids: str,
    category: str | None = None,
    category_prefix: str | None = None,
    end: Time | None = None,
    skip: Iterable[str] = (),
    device: str | None = None,
) -> ApiCall[MessageReceipt]:
    """Dismiss items by id, or all items of a category or under a prefix (`""`: every item) except `skip`.

    `device`: on behalf of one device; items for every device (`"*"`) are then dismissed on that device alone.
    """
    message = dismissal(item_ids, category=category, category_prefix=category_prefix, end=end, skip=skip)
    if device is not None:
        message["device"] = device
    return (yield from send(uid, message))


def snooze(uid: str, item_id: str, until: Time) -> ApiCall[str]:
    """Dismiss an item now and create a copy of it at `until`. Return the message id of the copy, for `cancel`.

    The copy is accepted before the item is dismissed: a failure in between loses nothing, and the same call again
    finishes it. Raises ValueError if the item expires before `until`, `NotFound` if the item is not live.
    """
    unix_seconds(until)  # a wrong argument raises before the first request
    document = yield from item(uid, item_id)
    if document.get("gone") is not None:
        raise NotFound({"status": 404, "code": "not_found", "detail": f"The item {item_id} is not live."})
    receipt = yield from send(uid, snoozed(item_id, document["item"], until))
    yield from dismiss(uid, item_id)
    return str(receipt.message_id)


def cancel(uid: str, message_id: str) -> ApiCall[bool]:
    """Cancel a message that waits for its `not_before`. Return false if it no longer waits."""
    try:
        yield ApiRequest("DELETE", _user_path(uid, f"messages/{path_segment(message_id)}"))
    except NotFound:
        return False
    return True


def reset_user(uid: str) -> ApiCall[MessageReceipt]:
    """Start a new epoch of the user (`flush` on the wire): all devices fetch a full copy. Needs the scope `admin`."""
    return (yield from send(uid, gregor(flush=True)))


def broadcast(
    system: str,
    body: Any,
    *,
    spread: timedelta | float | None = None,
    audience: Literal["online", "all"] = "online",
    broadcast_id: str | None = None,
) -> ApiCall[dict[str, Any]]:
    """Send an external message to many users. Return the job that does it; `job` returns its progress.

    `spread`: time from the first to the last user, in whole seconds (default: that of the server). `audience`: the
    users with a connection in the last five minutes, or all known users. `broadcast_id`: a repeat with the same id
    sends nothing again. Needs a service key with the scope `broadcast` or `admin`.
    """
    document = {
        "system": system,
        "body": body,
        "spread": None if spread is None else round(seconds_of(spread)),
        "audience": audience,
        # A call that is repeated after a lost response must be the same broadcast.
        "id": broadcast_id or f"broadcast-{secrets.token_hex(8)}",
    }
    found: dict[str, Any] = (yield ApiRequest("POST", "/v1/broadcast", content=_dump(document))).document(
        dict[str, Any]
    )
    return found


def job(job_id: str) -> ApiCall[dict[str, Any]]:
    """Return a job with its `state` and progress. Raises NotFound."""
    found: dict[str, Any] = (yield ApiRequest("GET", f"/v1/jobs/{path_segment(job_id)}")).document(dict[str, Any])
    return found


def cancel_job(job_id: str) -> ApiCall[dict[str, Any]]:
    """Cancel a job and return it. Its finished steps stay. Raises NotFound."""
    found: dict[str, Any] = (yield ApiRequest("DELETE", f"/v1/jobs/{path_segment(job_id)}")).document(dict[str, Any])
    return found


def send_many(lines: Iterable[Line]) -> ApiCall[list[BatchOutcome]]:
    """Send many messages in few requests and return one entry for each (line, uid), in order.

    A refused line becomes an entry with a `problem` and does not affect the other lines. Lines that the server asks to
    repeat are repeated until the deadline. The deadline applies to each request, and starts again after each success.
    """
    # One job for each (line, uid), with its message id fixed now: a repeated job is the same message.
    jobs = [
        (number, {**_repeatable(_message_of(line)), "uid": uid})
        for number, line in enumerate(lines)
        for uid in (line["uids"] if "uids" in line else [line["uid"]])
    ]
    entries: list[BatchOutcome | None] = [None] * len(jobs)
    attempt = 0
    while pending := [place for place, entry in enumerate(entries) if entry is None or _is_retryable(entry)]:
        if attempt and not (yield Wait(_delay_s(attempt))):
            break
        attempt += 1
        for group in _groups([(place, _dump(jobs[place][1])) for place in pending]):
            response = yield ApiRequest(
                "POST", "/v1/messages", content=b"\n".join(text for _, text in group), content_type=NDJSON
            )
            answers = [_checked(line, BatchOutcome) for line in response.content.splitlines() if line]
            if len(answers) != len(group):
                raise UnexpectedResponse(f"the response has {len(answers)} lines for {len(group)} messages")
            for (place, _), answer in zip(group, answers, strict=True):
                answer["line"] = jobs[place][0]
                entries[place] = answer
            if not all(_is_retryable(answer) for answer in answers):
                yield RestartDeadline()
    return [entry for entry in entries if entry is not None]


# Reads.


def state(
    uid: str,
    *,
    device: str | None = None,
    category: str | None = None,
    category_prefix: Sequence[str] = (),
    at: Time | None = None,
    render: str | None = None,
) -> ApiCall[StateDocument]:
    """Return the live items of a user: all, or those that one `device` sees, now or `at` a moment of the past.

    `category` selects exactly that category. `render` is a language such as `it-IT`: the document then has the rendered
    title, text and link of each item.
    """
    query = {
        "device": device,
        "category": category,
        "category_prefix": _strings(category_prefix),
        "at": None if at is None else unix_seconds(at),
        "render": render,
    }
    response = yield ApiRequest("GET", _user_path(uid, "state"), _given(query))
    document: StateDocument = response.document(StateDocument)
    return document


def sync(
    uid: str,
    cursor: str | None = None,
    digest: str | None = None,
    *,
    device: str | None = None,
    category_prefix: Sequence[str] = (),
) -> ApiCall[dict[str, Any]]:
    """Return the sync object that brings a copy from `cursor` to now, as `Mirror.apply` takes it."""
    query = {"cursor": cursor, "digest": digest, "device": device, "category_prefix": _strings(category_prefix)}
    response = yield ApiRequest("GET", _user_path(uid, "sync"), _given(query))
    document: dict[str, Any] = response.document(dict[str, Any])
    return document


def item(uid: str, item_id: str) -> ApiCall[ItemDocument]:
    """Return one item, live or gone, with its timeline. Raises `NotFound` for an unknown id."""
    response = yield ApiRequest("GET", _user_path(uid, f"items/{path_segment(item_id)}"))
    document: ItemDocument = response.document(ItemDocument)
    return document


def history_page(
    uid: str, category_prefix: Sequence[str], limit: int, next_url: str | None, visited: set[str]
) -> ApiCall[tuple[list[ItemDocument], str | None]]:
    """Return one page of a user's history, newest first, and the URL of the next page.

    `visited`: the URLs of the pages so far. Raises `UnexpectedResponse` if the next page is one of them.
    """
    query = {"category_prefix": _strings(category_prefix), "limit": limit}
    first = ApiRequest("GET", _user_path(uid, "history"), _given(query))
    response: ApiResponse = yield ApiRequest("GET", next_url) if next_url is not None else first
    if response.next_url is not None:
        if response.next_url in visited:
            raise UnexpectedResponse("the history does not end: its pages link to each other")
        visited.add(response.next_url)
    return response.document(_HistoryPage)["entries"], response.next_url


# Requests.


def base_url_of(url: str) -> str:
    """Return the URL of ingest without a slash at its end.

    Raises ValueError unless it is an http or https URL with a host.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"{url!r} is not a URL of ingest; write http://host:8700 or https://host")
    return url.rstrip("/")


def bearer(key: str) -> dict[str, str]:
    """Return the header that authenticates a call.

    Raises ValueError if the key is empty, or cannot be sent in a header.
    """
    if not key or not all("!" <= character <= "~" for character in key):
        raise ValueError("the service key is empty or has characters that a header cannot carry; it looks like gk_…")
    return {"Authorization": f"Bearer {key}"}


def _message_request(uid: str, message: Message, dry_run: bool) -> ApiRequest:
    query = {"dry_run": "true"} if dry_run else {}
    return ApiRequest("POST", _user_path(uid, "messages"), query, _dump(_repeatable(message)))


def path_segment(name: str) -> str:
    """Return a name as one segment of a path. Raises ValueError for a name that would lead to another endpoint.

    HTTP clients resolve `.` and `..` before they send a request: `users/alice/messages/..` is `users/alice`.
    """
    if name in ("", ".", ".."):
        raise ValueError(f"{name!r} is not a valid name: it must have a letter or digit")
    return quote(name, safe="")


def _user_path(uid: str, rest: str) -> str:
    return f"/v1/users/{path_segment(uid)}/{rest}"


def _dump(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def _given(query: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in query.items() if value not in (None, [])}


def _strings(values: Sequence[str]) -> list[str]:
    """Return a list of the values; one string is one value, not a sequence of characters."""
    return [values] if isinstance(values, str) else list(values)


def _message_of(line: Line) -> Message:
    return {name: value for name, value in line.items() if name not in ("uid", "uids")}


def _repeatable(message: Message) -> Message:
    """Return the message with an id if only an id makes a repeat harmless.

    A device could add an `end` from its copy instead; a backend has no copy.
    """
    if message.get("id") is None and ("not_before" in message or needs_id(message)):
        return {**message, "id": secrets.token_hex(16)}
    return message


def _is_retryable(entry: Mapping[str, Any]) -> bool:
    return "problem" in entry and is_retryable(entry["problem"])


def _groups(lines: Sequence[tuple[int, bytes]]) -> Iterable[list[tuple[int, bytes]]]:
    """Return the lines in groups that each fit into one request."""
    group: list[tuple[int, bytes]] = []
    size = 0
    for line in lines:
        if group and (len(group) >= MAX_LINES or size + len(line[1]) > MAX_CALL_BYTES):
            yield group
            group, size = [], 0
        group.append(line)
        size += len(line[1]) + 1
    if group:
        yield group
