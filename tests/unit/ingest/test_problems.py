"""Validation errors: each names the field and how to fix it, without Python terms."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import BaseModel

from gregor.core.rate_limit import request_buckets
from gregor.store.contract.store import Unavailable
from gregor_ingest.schemas.requests import RequestModel
from tests.support.api import Api, code_of
from tests.support.kept_errors import garbage_collection_off, kept_errors

JUNK: list[Any] = [5, -1, 1.5, True, "", "a b", "x" * 5_000, [], [5], [[]], ["read"] * 2_000, {}, {"a b": 1}]
PYDANTIC = ("Input", "should", "valid dictionary", "List", "String", "Value error", "extract")


def models(root: type[BaseModel]) -> list[type[BaseModel]]:
    return [found for each in root.__subclasses__() for found in (each, *models(each))]


DEVICE = "/v1/users/alice/devices/phone"
ENDPOINTS = [
    ("POST", "/v1/keys"),
    ("POST", "/v1/tickets"),
    ("POST", "/v1/presence"),
    ("POST", "/v1/flush"),
    ("POST", "/v1/users/alice/flush"),
    ("POST", "/v1/users/alice/revoke"),
    ("POST", "/v1/categories/rollback"),
    ("POST", "/v1/categories/news/preview"),
    ("PUT", DEVICE),
]


@pytest.mark.parametrize(("method", "path"), ENDPOINTS)
async def test_every_error_type_has_a_text(api: Api, method: str, path: str) -> None:
    fields = sorted({name for model in models(RequestModel) for name in model.model_fields})
    documents = [*JUNK, *({name: junk} for name in fields for junk in JUNK)]
    documents += [{"push": {"provider": "webpush", name: junk}} for name in fields for junk in JUNK]
    refused = 0
    for document in documents:
        answer = await api.call(method, path, json=document)
        if answer.status_code >= 400:
            refused += 1
            details = [error["detail"] for error in answer.json().get("errors", ())] + [answer.json()["detail"]]
            assert not [detail for detail in details if any(word in detail for word in PYDANTIC)]

    assert refused > len(documents) / 2


@pytest.mark.parametrize(
    ("method", "path", "document", "code", "detail"),
    [
        ("POST", "/v1/keys", [], "invalid", "The document: This must be an object."),
        ("POST", "/v1/keys", {"scopes": []}, "invalid", "/scopes: This must not be empty."),
        ("POST", "/v1/keys", {"scopes": ["read"], "rate": 0}, "invalid", "/rate: This must be at least 0.001."),
        ("POST", "/v1/keys", {"scopes": ["read"], "rate": 1e9}, "invalid", "/rate: This must be at most 1000000."),
        (
            "POST",
            "/v1/keys",
            {"scopes": ["read"], "prefixes": ["a"] * 101},
            "too_many",
            "/prefixes: This may have at most 100 elements.",
        ),
        ("POST", "/v1/keys", {"scope": ["read"]}, "missing_field", "/scopes: This field is missing."),
        (
            "POST",
            "/v1/flush",
            {"spred": 5},
            "unknown_field",
            '/spred: Unknown field; did you mean "spread"?',
        ),
        ("POST", "/v1/flush", {"spread": 1.5}, "invalid", "/spread: This must be a whole number."),
        ("POST", "/v1/presence", {"uids": ["a"] * 1_001}, "too_many", "/uids: This may have at most 1000 elements."),
        ("POST", "/v1/presence", {"uids": "a"}, "invalid", "/uids: This must be an array."),
        (
            "PUT",
            DEVICE,
            {"platform": "amiga"},
            "invalid",
            "/platform: This must be one of 'ios', 'android', 'web' or 'desktop'.",
        ),
        (
            "PUT",
            DEVICE,
            {"push": {"provider": "sms"}},
            "invalid",
            "/push/provider: This must be one of 'apns', 'fcm', 'webpush'.",
        ),
        ("PUT", DEVICE, {"push": {}}, "missing_field", "/push/provider: This field is missing."),
        ("PUT", DEVICE, {"locale": "a b"}, "invalid", "/locale: This must be a language tag, such as it-IT."),
        (
            "GET",
            "/v1/users/alice/history?limit=0",
            None,
            "invalid",
            "The query parameter limit: This must be at least 1.",
        ),
        (
            "GET",
            "/v1/users/alice/history?limit=01",
            None,
            "invalid",
            "The query parameter limit: This must be a whole number without leading zeros.",
        ),
        (
            "GET",
            "/v1/users/alice/history?limit=x",
            None,
            "invalid",
            "The query parameter limit: This must be a whole number without leading zeros.",
        ),
    ],
)
async def test_error_names_the_field_and_the_fix(
    api: Api, method: str, path: str, document: Any, code: str, detail: str
) -> None:
    answer = await api.call(method, path, **({} if document is None else {"json": document}))

    assert code_of(answer) == (422, code)
    assert answer.json()["detail"] == detail


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("PUT", "/v1/users/alice/preferences", 422),
        ("POST", "/v1/users/alice/messages", 422),
        ("GET", "/v1/nothing", 404),
        ("PUT", "/v1/presence", 405),
        ("GET", "/v1/users/alice/deliveries?x=1", 422),
    ],
)
async def test_refused_request_leaves_no_error(api: Api, method: str, path: str, status: int) -> None:
    """The traceback of an error has the body of its request."""
    with garbage_collection_off():
        before = kept_errors()
        for _ in range(3):
            assert (await api.call(method, path, json=[1.5])).status_code == status

        assert kept_errors() == before


@pytest.mark.parametrize("status", [429, 503])
async def test_request_that_finds_no_place_leaves_no_error(
    api: Api, monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    context, token, now_us = api.app.state.context, api.token(), api.clock.now_us()
    if status == 429:
        buckets = request_buckets("alice", "phone", context.limits)
        await api.store.access.take_all("alice", buckets, min(bucket.burst for bucket in buckets), now_us)
    else:

        async def fail(*_asked: Any) -> None:
            raise Unavailable("no server")

        monkeypatch.setattr(api.store.access, "take_all", fail)
    with garbage_collection_off():
        before = kept_errors()
        for _ in range(3):
            answer = await api.call("PUT", "/v1/users/alice/preferences", token, json=[1.5])
            assert answer.status_code == status

        assert kept_errors() == before
