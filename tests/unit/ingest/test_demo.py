"""The page `/demo` of `gregor dev`: served on demand only, with device tokens of new users only."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import gregor_ingest
from gregor_ingest.routes.site.demo import DEVICES, NOTIFICATION_TYPES
from tests.support.api import Api, code_of

PAGES = Path(gregor_ingest.__file__).parent / "pages"
GATEWAY = "ws://127.0.0.1:8701,http://127.0.0.1:8702"


async def test_demo_is_off_by_default(api: Api) -> None:
    assert code_of(await api.call("GET", "/demo", "")) == (404, "not_found")
    assert code_of(await api.call("POST", "/demo/session", "")) == (404, "not_found")
    assert "/demo" not in (await api.call("GET", "/", "")).text


async def test_index_links_to_an_enabled_demo() -> None:
    async with Api(demo=GATEWAY) as api:
        assert 'href="/demo"' in (await api.call("GET", "/", "")).text


async def test_demo_page_has_a_strict_policy() -> None:
    async with Api(demo=GATEWAY) as api:
        page = await api.call("GET", "/demo", "")

    policy = page.headers["content-security-policy"]
    assert "connect-src 'self' ws://127.0.0.1:8701 http://127.0.0.1:8702;" in policy
    assert policy.endswith("require-trusted-types-for 'script'")
    assert "unsafe" not in policy
    assert not re.search(r"<style|<script(?! type=\"module\" src)|\son\w+=|\sstyle=", page.text)


async def test_demo_loads_nothing_from_elsewhere() -> None:
    for name in ("demo.html", "demo.css", "demo.js"):
        text = (PAGES / name).read_text("utf-8").replace("https://push.example.com", "")

        assert not re.search(r"https?://|//[a-z]+\.", text), name


async def test_session_has_tokens_of_a_new_user() -> None:
    async with Api(demo=GATEWAY) as api:
        first, second = [(await api.call("POST", "/demo/session", "")).json() for _ in range(2)]
        assert first["uid"] != second["uid"]
        assert first["uid"].startswith("demo-")
        assert first["tokens"].keys() == set(DEVICES)
        assert (first["websocket"], first["streams"]) == ("ws://127.0.0.1:8701", "http://127.0.0.1:8702")
        for token in first["tokens"].values():
            own = await api.call("GET", f"/v1/users/{first['uid']}/state", token)
            assert own.status_code == 200
            other = await api.call("GET", f"/v1/users/{second['uid']}/state", token)
            assert code_of(other) == (403, "forbidden")


async def test_session_adds_types_and_keeps_others() -> None:
    async with Api(demo=GATEWAY) as api:
        await api.call("PUT", "/v1/categories/mail", json={"title": "Mail"})
        for _ in range(2):
            assert (await api.call("POST", "/demo/session", "")).status_code == 200
        stored = (await api.call("GET", "/v1/categories")).json()

    assert stored["categories"] == {"mail": {"title": "Mail"}, **NOTIFICATION_TYPES}
    assert stored["version"] == 3


@pytest.mark.parametrize("story", ["joined", "follower", "invite", "favourite", "away", "offline"])
def test_each_story_has_a_button(story: str) -> None:
    assert f'data-story="{story}"' in (PAGES / "demo.html").read_text("utf-8")
    assert f"  {story}: " in (PAGES / "demo.js").read_text("utf-8")


def test_demo_writes_a_device_once() -> None:
    html = (PAGES / "demo.html").read_text("utf-8")

    assert html.count("<gregor-inbox>") == html.count('<template id="device">') == 1
    assert html.count('class="device"') == 2
