"""Both producers against a scripted ingest: requests, receipts, errors, deadlines."""

from __future__ import annotations

import asyncio
import inspect
import json
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from gregor.client import (
    AsyncProducer,
    Conflict,
    Forbidden,
    Invalid,
    ItemIgnored,
    NotFound,
    Producer,
    RateLimited,
    Rejected,
    ServiceUnavailable,
    Unauthorized,
    Unreachable,
)
from tests.support.ports import free_port
from tests.support.scripted_ingest import ScriptedIngest, scripted_ingest

Call = Callable[..., Any]
RECEIPT = {"cursor": "k-1", "seq": 1, "created": ["a"], "dismissed": [], "ignored": {}}
PROBLEM = {"code": "unavailable", "title": "Unavailable", "detail": "no store", "status": 503}


@pytest.fixture
def ingest() -> Iterator[ScriptedIngest]:
    with scripted_ingest() as server:
        yield server


def blocking(url: str, method: str, *args: Any, timeout: float = 5, **kwargs: Any) -> Any:
    with Producer(url, "gk_a_b", timeout=timeout) as producer:
        result = getattr(producer, method)(*args, **kwargs)
        return list(result) if inspect.isgenerator(result) else result


def awaited(url: str, method: str, *args: Any, timeout: float = 5, **kwargs: Any) -> Any:
    async def perform() -> Any:
        async with AsyncProducer(url, "gk_a_b", timeout=timeout) as producer:
            result = getattr(producer, method)(*args, **kwargs)
            return [entry async for entry in result] if inspect.isasyncgen(result) else await result

    return asyncio.run(perform())


@pytest.fixture(params=[blocking, awaited])
def call(request: pytest.FixtureRequest) -> Call:
    """Calls a method of one of the two producers."""
    performer: Call = request.param
    return performer


def test_create_sends_all_fields_and_returns_receipt(ingest: ScriptedIngest, call: Call) -> None:
    ingest.answer = RECEIPT
    expires = datetime(2026, 1, 2, tzinfo=UTC)

    receipt = call(
        *(ingest.url, "create", "alice", "user.joined", {"n": 1}),
        item_id="a",
        for_device="*",
        created=100,
        expires=expires,
        remind_at=[timedelta(hours=1), "+90", 1457056447],
    )

    times = {"created": 100, "expires": expires.timestamp(), "remind_at": ["+3600", "+90", 1457056447]}
    item = {"times": times, "for_device": "*", "category": "user.joined", "body": {"n": 1}}
    assert ingest.asked == [("POST", "/v1/users/alice/messages", {"system": "gregor", "body": {"create": {"a": item}}})]
    assert ingest.authorization == "Bearer gk_a_b"
    assert (receipt.item_id, receipt.seq, receipt.created, receipt.unchanged) == ("a", 1, ("a",), False)


@pytest.mark.parametrize("reason", ["conflict", "dismissed", "expired", "stale"])
def test_create_raises_if_nothing_was_created(ingest: ScriptedIngest, call: Call, reason: str) -> None:
    ingest.answer = {**RECEIPT, "created": [], "ignored": {"a": reason}, "unchanged": True}

    with pytest.raises(ItemIgnored, match=f"'a' was not created: {reason}") as ignored:
        call(ingest.url, "create", "alice", "mail", item_id="a")

    assert (ignored.value.reason, ignored.value.receipt.unchanged) == (reason, True)


@pytest.mark.parametrize("ignored", [{}, {"a": "duplicate"}])
def test_repeated_create_is_not_an_error(ingest: ScriptedIngest, call: Call, ignored: dict[str, str]) -> None:
    ingest.answer = {**RECEIPT, "created": [], "ignored": ignored, "unchanged": True}

    assert call(ingest.url, "create", "alice", "mail", item_id="a").item_id == "a"


def test_delayed_create_has_a_message_id_to_cancel(ingest: ScriptedIngest, call: Call) -> None:
    ingest.answer = {"id": "m1", "not_before": 1457060000}

    receipt = call(ingest.url, "create", "alice", "mail", not_before=datetime.fromtimestamp(1457060000, UTC))

    sent = ingest.asked[0][2]
    assert (sent["not_before"], len(sent["id"])) == (1457060000, 32)
    assert (receipt.message_id, receipt.not_before) == ("m1", 1457060000)
    assert call(ingest.url, "create", "alice", "mail", not_before=5, message_id="mine")
    assert ingest.asked[1][2]["id"] == "mine"


def test_dry_run_reports_ignored_items_and_deliveries(ingest: ScriptedIngest, call: Call) -> None:
    delivery = {"item": "a", "channel": "apns"}
    ingest.answer = {**RECEIPT, "ignored": {"a": "expired"}, "dry_run": True, "deliveries": [delivery]}

    receipt = call(ingest.url, "create", "alice", "mail", item_id="a", dry_run=True)

    assert ingest.asked[0][1] == "/v1/users/alice/messages?dry_run=true"
    assert (receipt.dry_run, receipt.ignored, receipt.deliveries) == (True, {"a": "expired"}, (delivery,))


def test_state_passes_category_and_other_filters(ingest: ScriptedIngest, call: Call) -> None:
    ingest.answer = {"items": {}, "digest": "00"}
    at = datetime(2026, 1, 2, tzinfo=UTC)

    call(ingest.url, "state", "a/b", device="phone", category="mail", category_prefix=["x", "y"], render="it-IT", at=at)
    call(ingest.url, "state", "alice", category_prefix="user")

    filters = "device=phone&category=mail&category_prefix=x&category_prefix=y"
    assert ingest.asked[0][1] == f"/v1/users/a%2Fb/state?{filters}&at={at.timestamp()}&render=it-IT"
    assert ingest.asked[1][1] == "/v1/users/alice/state?category_prefix=user"


def test_history_follows_next_links(ingest: ScriptedIngest, call: Call) -> None:
    entry = {"item": {}, "seq": 1, "gone": None}
    ingest.next = [(200, {"entries": [{**entry, "id": "b"}]}), (200, {"entries": [{**entry, "id": "a"}]})]
    ingest.links = ["/v1/users/alice/history?limit=1&before=2_b"]

    entries = call(ingest.url, "history", "alice", page=1)

    assert [entry["id"] for entry in entries] == ["b", "a"]
    assert [path for _, path, _ in ingest.asked] == [
        "/v1/users/alice/history?limit=1", "/v1/users/alice/history?limit=1&before=2_b"
    ]  # fmt: skip


def test_snooze_sends_the_copy_before_the_dismissal(ingest: ScriptedIngest, call: Call) -> None:
    item = {"times": {"created": 5}, "for_device": None, "category": "mail", "body": None}
    waiting = {"id": "snoozed:1", "not_before": 50}
    ingest.next = [(200, {"id": "a", "item": item, "seq": 1, "gone": None}), (200, waiting), (200, RECEIPT)]

    assert call(ingest.url, "snooze", "alice", "a", 50) == "snoozed:1"

    _, (_, _, copy), (_, _, dismissal) = ingest.asked
    assert copy["not_before"] == 50 and dismissal["body"] == {"dismiss": {"ids": ["a"]}}


def test_snooze_of_a_gone_item_is_not_found(ingest: ScriptedIngest, call: Call) -> None:
    ingest.answer = {"id": "a", "item": {}, "seq": 1, "gone": {"reason": "dismissed"}}

    with pytest.raises(NotFound, match="not live"):
        call(ingest.url, "snooze", "alice", "a", 50)


def test_cancel_returns_whether_the_message_waited(ingest: ScriptedIngest, call: Call) -> None:
    ingest.next = [(204, None), (404, {"code": "not_found", "detail": "gone"})]

    assert call(ingest.url, "cancel", "alice", "m1") is True
    assert call(ingest.url, "cancel", "alice", "m1") is False


def test_send_many_repeats_only_retryable_lines(ingest: ScriptedIngest, call: Call) -> None:
    refused = {"code": "invalid", "status": 422, "detail": "no"}
    first = [{"line": 0, "uid": "a", "receipt": RECEIPT}, {"line": 1, "uid": "b", "problem": PROBLEM}]
    first += [{"line": 2, "uid": "c", "problem": refused}]
    second = [{"line": 0, "uid": "b", "receipt": RECEIPT}]
    ingest.next = [
        (200, b"\n".join(json.dumps(line).encode() for line in first)),
        (200, json.dumps(second[0]).encode()),
    ]

    entries = call(ingest.url, "send_many", [{"uids": ["a", "b"], "system": "s", "body": 1}, _line("c")])

    assert [(entry["line"], entry["uid"], "receipt" in entry) for entry in entries] == [
        (0, "a", True), (0, "b", True), (1, "c", False)
    ]  # fmt: skip
    (_, _, lines), (_, _, again) = ingest.asked
    assert again == lines[1] and len(again["id"]) == 32


def _line(uid: str) -> dict[str, Any]:
    return {"uid": uid, "system": "s", "body": 2}


@pytest.mark.parametrize(
    ("status", "family"),
    [
        (400, Invalid), (401, Unauthorized), (403, Forbidden), (404, NotFound), (409, Conflict), (413, Invalid),
        (415, Invalid), (418, Rejected), (422, Invalid),
    ],
)  # fmt: skip
def test_each_status_raises_its_family_at_once(
    ingest: ScriptedIngest, call: Call, status: int, family: type[Rejected]
) -> None:
    fields = [{"pointer": "/body", "detail": "is missing"}]
    ingest.status, ingest.answer = status, {"code": "x", "detail": "why", "errors": fields, "request_id": "r1"}

    with pytest.raises(family) as raised:
        call(ingest.url, "item", "alice", "a")

    error = raised.value
    assert type(error) is family and len(ingest.asked) == 1
    assert (error.code, error.status, error.detail, error.request_id) == ("x", status, "why", "r1")
    assert str(error) == "x: why; /body: is missing"


def test_rate_limit_longer_than_the_deadline_raises(ingest: ScriptedIngest, call: Call) -> None:
    ingest.status, ingest.answer = 429, {"code": "rate_limited", "detail": "slow down"}
    ingest.headers = {"Retry-After": "30"}

    with pytest.raises(RateLimited) as raised:
        call(ingest.url, "state", "alice")

    assert (raised.value.retry_after, len(ingest.asked)) == (30, 1)


def test_unavailable_server_is_tried_until_the_deadline(ingest: ScriptedIngest, call: Call) -> None:
    ingest.status, ingest.answer = 503, PROBLEM

    with pytest.raises(ServiceUnavailable, match="no store"):
        call(ingest.url, "state", "alice", timeout=0.6)

    assert len(ingest.asked) >= 2


def test_bad_gateway_page_is_retried(ingest: ScriptedIngest, call: Call) -> None:
    ingest.next = [(502, b"<html>bad gateway</html>"), (200, {"items": {}, "digest": "00"})]

    assert call(ingest.url, "state", "alice")["items"] == {}


def test_repeated_message_keeps_its_id(ingest: ScriptedIngest, call: Call) -> None:
    ingest.next = [(503, PROBLEM), (200, {"cursor": "k-1", "seq": 1})]

    call(ingest.url, "send", "alice", {"system": "kbfs", "body": 1})

    (_, _, first), (_, _, second) = ingest.asked
    assert first == second and first["id"]


def test_refused_connection_is_unreachable_within_the_deadline(call: Call) -> None:
    started = time.monotonic()

    with pytest.raises(Unreachable, match=r"GET /v1/users/alice/state: .*\(\d+ attempts\)"):
        call(f"http://127.0.0.1:{free_port()}", "state", "alice", timeout=0.5)

    assert time.monotonic() - started < 2


def test_silent_server_is_unreachable_within_the_deadline(call: Call) -> None:
    started = time.monotonic()
    with socket.create_server(("127.0.0.1", 0)) as listener, pytest.raises(Unreachable):
        call(f"http://127.0.0.1:{listener.getsockname()[1]}", "state", "alice", timeout=0.3)

    assert time.monotonic() - started < 2


def _resolve_to(monkeypatch: pytest.MonkeyPatch, *addresses: str) -> None:
    """Let the name `gregor.example` have these addresses."""
    resolve = socket.getaddrinfo

    def getaddrinfo(host: Any, port: Any, *options: Any, **more: Any) -> list[Any]:
        if host not in ("gregor.example", b"gregor.example"):
            return list(resolve(host, port, *options, **more))
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, int(port))) for address in addresses]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)


def test_next_address_of_a_host_is_tried(ingest: ScriptedIngest, call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    ingest.answer = {"items": {}, "digest": "00"}
    _resolve_to(monkeypatch, "127.0.0.2", "127.0.0.1")

    assert call(f"http://gregor.example:{ingest.server_port}", "state", "alice")["items"] == {}
    assert len(ingest.asked) == 1


def test_silent_addresses_share_the_deadline(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    _resolve_to(monkeypatch, *["127.0.0.1"] * 12)
    with socket.create_server(("127.0.0.1", 0), backlog=1) as listener, ExitStack() as fillers:
        for _ in range(8):  # a full backlog does not answer
            filler = fillers.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
        started = time.monotonic()
        with pytest.raises(Unreachable):
            call(f"http://gregor.example:{listener.getsockname()[1]}", "state", "alice", timeout=0.4)

    assert time.monotonic() - started < 2


@pytest.mark.parametrize("url", ["127.0.0.1:8700", "ws://127.0.0.1:8700", "http://", ""])
@pytest.mark.parametrize("producer", [Producer, AsyncProducer])
def test_url_without_scheme_or_host_is_a_value_error(url: str, producer: type[Any]) -> None:
    with pytest.raises(ValueError, match="not a URL of ingest"):
        producer(url, "gk_a_b")


@pytest.mark.parametrize("key", ["", "gk a", "gk_é", "gk\n"])
def test_key_that_no_header_carries_is_a_value_error(key: str) -> None:
    with pytest.raises(ValueError, match="service key"):
        Producer("http://127.0.0.1:8700", key)


@pytest.mark.parametrize(("time", "message"), [(datetime(2026, 1, 1), "time zone"), (timedelta(-1), "negative")])
def test_ambiguous_time_is_a_value_error(time: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        blocking("http://127.0.0.1:1", "create", "alice", "mail", expires=time)


def test_both_producers_have_the_same_methods() -> None:
    def methods(producer: type[Any]) -> dict[str, list[str]]:
        public = {name: getattr(producer, name) for name in dir(producer) if not name.startswith("_")}
        return {
            name: [p for p in inspect.signature(method).parameters if p != "self"] for name, method in public.items()
        }

    assert methods(Producer) == methods(AsyncProducer)
    assert {"category", "item_id", "not_before", "dry_run"} <= set(methods(Producer)["create"])


def test_client_imports_no_server_package() -> None:
    program = "import sys, gregor.client; print(*sys.modules)"

    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()

    outside = {"pydantic", "fastapi", "starlette", "redis", "structlog", "jinja2", "prometheus_client", "uvicorn"}
    outside |= {"gregor.store", "gregor.redis", "gregor.config", "gregor.auth", "gregor.web", "gregor.rendering"}
    assert outside & {*loaded, *(name.partition(".")[0] for name in loaded)} == set()


@pytest.mark.parametrize("name", ["", ".", ".."])
@pytest.mark.parametrize("arguments", [("state",), ("item", "alice"), ("cancel", "alice"), ("dismiss",)])
def test_name_cannot_lead_to_another_endpoint(
    ingest: ScriptedIngest, call: Call, arguments: tuple[str, ...], name: str
) -> None:
    """HTTP clients resolve dot segments: `messages/..` would delete the user."""
    with pytest.raises(ValueError, match="is not a valid name"):
        call(ingest.url, *arguments, name)

    assert ingest.asked == []


def test_producer_asks_for_replicas(ingest: ScriptedIngest) -> None:
    ingest.answer = {**RECEIPT, "durability": "replicated", "replicas": 1}
    ingest.next = [(503, {**PROBLEM, "code": "not_replicated"})]

    with Producer(ingest.url, "gk_a_b", replicated=True) as producer:
        receipt = producer.create("alice", "mail", item_id="a")

    assert receipt.replicas == 1
    assert ingest.durabilities == ["replicated", "replicated"]  # the first answer was repeated


def test_producer_asks_for_no_replicas_by_default(ingest: ScriptedIngest) -> None:
    ingest.answer = RECEIPT

    assert blocking(ingest.url, "create", "alice", "mail", item_id="a").replicas is None
    assert awaited(ingest.url, "create", "alice", "mail", item_id="a").replicas is None
    assert ingest.durabilities == [None, None]
