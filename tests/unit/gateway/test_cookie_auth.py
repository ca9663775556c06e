"""The cookie as a credential: its parser, and the pages that may use it."""

from __future__ import annotations

import time
from http.cookies import SimpleCookie

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gregor.core.errors import Problem
from gregor_gateway.transports.stream_auth import COOKIE, HOST_COOKIE, MAX_COOKIE_BYTES, read_cookie
from tests.unit.gateway.conftest import Gateway

names = st.text(alphabet="abcdefgh_-0123456789", min_size=1, max_size=12)
values = st.text(alphabet="abcABC012._-", min_size=1, max_size=40)
quoted = values.map(lambda value: f'"{value}"')


def parsed(header: str) -> str | None:
    jar: SimpleCookie = SimpleCookie()
    jar.load(header)
    return jar[COOKIE].value if COOKIE in jar else None


# ---- the parser


@given(st.lists(st.tuples(st.one_of(names, st.just(COOKIE)), st.one_of(values, quoted)), max_size=8))
def test_well_formed_cookies_read_as_before(pairs: list[tuple[str, str]]) -> None:
    header = "; ".join(f"{name}={value}" for name, value in pairs)

    assert read_cookie(header) == parsed(header)


@given(st.text(max_size=200))
def test_any_cookie_header_is_read_or_ignored(header: str) -> None:
    assert read_cookie(header) is None or COOKIE in header or HOST_COOKIE in header


def test_cookie_with_the_host_prefix_takes_precedence() -> None:
    """A page of a sibling host can set ``gregor_token`` for the whole domain, but not ``__Host-gregor_token``."""
    assert read_cookie("__Host-gregor_token=mine; gregor_token=planted") == "mine"
    assert read_cookie("gregor_token=planted; __Host-gregor_token=mine") == "mine"


def test_cookie_header_is_read_in_linear_time() -> None:
    def cost(size: int) -> float:
        header = COOKIE + '="' + '\\"' * (size // 2)
        begun = time.process_time()
        for _ in range(20):
            read_cookie(header[:MAX_COOKIE_BYTES])
        return time.process_time() - begun

    # The parser of the standard library needs 16 ms for each of these headers (CVE-2024-7592).
    assert cost(MAX_COOKIE_BYTES) < 0.05


def test_large_cookie_header_is_refused() -> None:
    header = f"{COOKIE}={'x' * 100}; other="
    header += "y" * (MAX_COOKIE_BYTES - len(header))

    assert read_cookie(header) == "x" * 100
    with pytest.raises(Problem, match="Cookie has 8193 bytes; the limit is 8192"):
        read_cookie(header + "y")


async def test_cookie_bomb_is_refused_before_parsing(streams: str) -> None:
    bomb = COOKIE + '="' + '\\"' * 30_000
    async with httpx.AsyncClient(base_url=streams, trust_env=False) as client:
        begun = time.process_time()
        answer = await client.get("/v1/stream", headers={"Cookie": bomb, "Sec-Fetch-Site": "same-origin"})
        seconds = time.process_time() - begun

    assert answer.status_code in (422, 431)
    assert seconds < 0.5


# ---- pages


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Sec-Fetch-Site": "same-origin"}, 200),
        ({"Sec-Fetch-Site": "cross-site", "Origin": "http://localhost:3000"}, 200),
        ({"Sec-Fetch-Site": "same-site", "Origin": "http://localhost:3000"}, 200),
        ({"Origin": "http://localhost:3000"}, 200),
        ({"Origin": "https://gregor.example"}, 200),
        ({}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-site"}, 403),
        ({"Sec-Fetch-Site": "none"}, 403),
        ({"Sec-Fetch-Site": "same-site", "Origin": "https://gregor.example"}, 403),
        ({"Sec-Fetch-Site": "cross-site", "Origin": "http://gregor.example"}, 403),
        ({"Origin": "http://gregor.example"}, 403),
    ],
)
async def test_cookie_needs_a_page_of_ours(
    gateway: Gateway, streams: str, headers: dict[str, str], status: int
) -> None:
    """A foreign page's image or navigation sends the cookie without an Origin: it must not open a poll."""
    sent = {"Cookie": f"gregor_token={gateway.token()}", "Host": "gregor.example", **headers}
    async with httpx.AsyncClient(base_url=streams, headers=sent, trust_env=False) as client:
        answer = await client.get("/v1/poll", params={"wait": "0", "foreground": "true", "session": "evil"})

    (presence,) = await gateway.store.devices.presence(["alice"], gateway.clock.now_us())
    assert answer.status_code == status
    assert presence.foreground is (status == 200)
    if status == 403:
        assert answer.json()["code"] == "origin_not_allowed"


async def test_http_page_of_the_own_host_gets_no_cookie_access(gateway: Gateway, streams: str) -> None:
    """Who can alter plain http in the network could otherwise read the stream with the user's cookie."""
    sent = {"Cookie": f"gregor_token={gateway.token()}", "Host": "gregor.example", "Origin": "http://gregor.example"}
    async with httpx.AsyncClient(base_url=streams, headers=sent, trust_env=False) as client:
        answer = await client.get("/v1/poll?wait=0")

    assert (answer.status_code, answer.json()["code"]) == (403, "origin_not_allowed")


async def test_token_in_a_header_needs_no_page(gateway: Gateway, streams: str) -> None:
    sent = {"Authorization": f"Bearer {gateway.token()}", "Sec-Fetch-Site": "cross-site"}
    async with httpx.AsyncClient(base_url=streams, headers=sent, trust_env=False) as client:
        assert (await client.get("/v1/poll?wait=0")).status_code == 200
