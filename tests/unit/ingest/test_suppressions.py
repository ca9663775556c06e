"""Suppressed addresses over HTTP."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from tests.support.api import NOW_S, Api, code_of

PATH = "/v1/contact/suppressions"


async def call(api: Api, method: str, **options: Any) -> httpx.Response:
    key = await api.make_key("deliveries")
    return await api.call(method, options.pop("path", PATH), key, **options)


async def test_address_is_suppressed_listed_and_released(api: Api) -> None:
    made = await call(api, "POST", json={"email": "alice@example.com", "reason": "complaint"})
    shown = {"email": "alice@example.com", "reason": "complaint", "since": NOW_S}

    assert (made.status_code, made.json()) == (201, shown)
    assert (await call(api, "GET")).json() == {"entries": [shown]}
    assert (await call(api, "DELETE", json={"email": "ALICE@example.com"})).status_code == 204
    assert (await call(api, "DELETE", params={"email": "alice@example.com"})).status_code == 204
    assert (await call(api, "GET")).json() == {"entries": []}


async def test_pagination_links_contain_no_address(api: Api) -> None:
    for n in range(5):
        await call(api, "POST", json={"email": f"u{n}@example.com"})
        api.clock.advance(1)

    seen, path = [], f"{PATH}?limit=2"
    while path:
        answer = await call(api, "GET", path=path)
        seen += [entry["email"] for entry in answer.json()["entries"]]
        path = answer.links["next"]["url"] if "next" in answer.links else ""
        assert "example.com" not in path

    assert seen == [f"u{n}@example.com" for n in reversed(range(5))]


@pytest.mark.parametrize(
    ("method", "options", "refusal", "pointer"),
    [
        ("POST", {"json": {}}, "missing_field", "/email"),
        ("POST", {"json": {"email": "nobody"}}, "invalid", "/email"),
        ("POST", {"json": {"email": 7}}, "invalid", "/email"),
        ("POST", {"json": {"email": "a@example.com", "reason": "Two words"}}, "invalid", "/reason"),
        ("POST", {"json": {"email": "a@example.com", "why": "x"}}, "unknown_field", "/why"),
        ("DELETE", {}, "missing_field", None),
        ("DELETE", {"params": {"email": "nobody"}}, "invalid", None),
        ("DELETE", {"json": {"email": "nobody"}}, "invalid", "/email"),
        ("DELETE", {"json": {"email": "a@example.com"}, "params": {"email": "nobody"}}, "invalid", "/email"),
        ("GET", {"params": {"before": "x"}}, "invalid", None),
        ("GET", {"params": {"limit": 0}}, "invalid", None),
    ],
)
async def test_suppression_errors_contain_no_address(
    api: Api, method: str, options: dict[str, Any], refusal: str, pointer: str | None
) -> None:
    answer = await call(api, method, **options)

    assert code_of(answer) == (422, refusal)
    assert [each["pointer"] for each in answer.json().get("errors", [])] == ([pointer] if pointer else [])
    assert "nobody" not in answer.text
