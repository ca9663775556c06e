"""The SSRF guard: requests never reach our own network."""

import asyncio
import socket
import threading
from itertools import product
from typing import Any

import httpcore
import pytest

from gregor.net.ssrf_guard import AddressNotPublic, AllowedHosts, GuardedBackend
from gregor_delivery.throttle.web_push_origins import origin_of
from tests.support.wait import wait_until

LISTED = AllowedHosts(["push.example", "*.push.apple.com", "localhost:8443", "Upper.Example"])


@pytest.mark.parametrize(
    ("url", "destination"),
    [
        ("https://push.example/a?b", ("push.example", 443)),
        ("https://PUSH.example:443/", ("push.example", 443)),
        ("https://web.push.apple.com/a", ("web.push.apple.com", 443)),
        ("https://a.b.push.apple.com/a", ("a.b.push.apple.com", 443)),
        ("https://upper.example/", ("upper.example", 443)),
        ("https://localhost:8443/a", ("localhost", 8443)),
    ],
)
def test_listed_host_is_allowed(url: str, destination: tuple[str, int]) -> None:
    found = LISTED.destination_of(url)

    assert found is not None
    assert (found.host, found.port) == destination
    assert found.is_private_allowed == (destination[0] == "localhost")


@pytest.mark.parametrize(
    "url",
    [
        *(
            "http://push.example/",
            "https://push.example:444/",
            "https://push.example.evil/",
            "https://evilpush.example/",
        ),
        *("https://push.apple.com/", "https://.push.apple.com.evil/", "https://user@push.example/"),
        *("https://push.example\\@evil/", "https://push.example\t/", "https://pu\u017fh.example/", "https://:443/"),
        *("https://localhost/", "https://localhost:8444/", "https://127.0.0.1/", "https://[::1]/", "https://[x/", ""),
        *("https://push.example:99999/", "//push.example/", "ftp://push.example/"),
        *(
            "https://push.example./",
            "https://push.example.:443/",
            "https://PUSH.EXAMPLE../",
            "https://localhost.:8443/",
        ),
        *("https://push%2eexample/", "https://push.example%2e/", "https://push.example%00/", "https://[push.example]/"),
        *(
            "https://push\u3002example/",
            "https://push\uff0eexample/",
            "https://\uff50ush.example/",
            "https://@push.example/",
        ),
        *("https://push..example/", "https://.push.example/", "https://push.example;/", "https://push.example,x/"),
        *("https://0x7f.1/", "https://2130706433/", "https://[fe80::1%25push.example]/", "https:push.example/"),
    ],
)
def test_unlisted_url_is_refused(url: str) -> None:
    assert LISTED.destination_of(url) is None


@pytest.mark.parametrize(
    "host", ["push.example", "PUSH.example", "a.push.apple.com", "localhost", "[v1.push.apple.com]"]
)
def test_connection_goes_to_the_host_that_was_compared(host: str) -> None:
    """Else two spellings of a host would share a circuit breaker, and only one of them could be reached."""
    before = ["", ".", "@", "x@", "[", "%2e"]
    ports = ["", ":", ":0", ":443", ":0443", ":8443", ":08443"]
    after = [end + port for end, port in product(["", ".", "..", "%2e", "]", "\\", ";", "@"], ports)]
    urls = [f"https://{a}{host}{b}{c}" for a, b, c in product(before, after, ["", "/x", "?x", "#x", "\\x"])]
    allowed = [(url, found) for url in urls if (found := LISTED.destination_of(url)) is not None]

    assert allowed
    for url, destination in allowed:
        origin = httpcore.URL(url).origin
        assert (origin.host.decode(), origin.port) == (destination.host, destination.port)
        assert origin_of(url) in (destination.host, f"{destination.host}:{destination.port}")


async def test_name_is_checked_by_its_resolved_address() -> None:
    with pytest.raises(AddressNotPublic):
        await GuardedBackend().connect_tcp("localhost", 443)


async def test_private_address_is_refused_in_any_notation() -> None:
    for address in ("127.0.0.1", "::1", "2130706433"):
        with pytest.raises(httpcore.ConnectError):
            await GuardedBackend().connect_tcp(address, 443)


async def test_listed_private_port_is_allowed() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        backend = GuardedBackend(AllowedHosts([f"127.0.0.1:{port}"]).private_destinations())

        await (await backend.connect_tcp("127.0.0.1", port, timeout=5)).aclose()


async def test_unix_socket_is_refused() -> None:
    with pytest.raises(AddressNotPublic):
        await GuardedBackend().connect_unix_socket("/run/docker.sock")


async def test_silent_name_server_does_not_block_other_lookups(monkeypatch: pytest.MonkeyPatch) -> None:
    release, resolve, lookups = threading.Event(), socket.getaddrinfo, list[str]()

    def silent(host: str, *arguments: Any, **options: Any) -> Any:
        if not host.endswith("silent.example"):
            return resolve(host, *arguments, **options)
        lookups.append(host)
        release.wait(30)
        raise socket.gaierror("no answer")

    monkeypatch.setattr(socket, "getaddrinfo", silent)
    backend = GuardedBackend()
    blocked = [asyncio.create_task(backend.connect_tcp(f"h{n % 64}.silent.example", 443)) for n in range(256)]
    await wait_until(lambda: len(lookups) >= 6, "all threads of a pool wait")
    try:
        async with asyncio.timeout(5):
            await asyncio.get_running_loop().getaddrinfo("127.0.0.1", 25)
        assert len(lookups) <= 8
        assert len(lookups) == len(set(lookups))
    finally:
        release.set()
    failures = await asyncio.gather(*blocked, return_exceptions=True)
    assert {type(each) for each in failures} == {httpcore.ConnectError}


async def test_lookup_ends_at_its_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    release = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: release.wait(30))
    monkeypatch.setattr("gregor.net.ssrf_guard.RESOLVE_TIMEOUT_S", 0.05)

    with pytest.raises(httpcore.ConnectError, match="cannot be resolved"):
        await GuardedBackend().connect_tcp("silent.example", 443)
    release.set()


@pytest.mark.parametrize("host", ["a" * 64, ".push.apple.com", "a..push.apple.com", "-a.push.apple.com"])
async def test_malformed_host_name_is_refused_for_good(host: str) -> None:
    """A device must not be able to register an endpoint that makes each delivery fail without a verdict."""
    host = host if host.endswith(".com") else f"{host}.push.apple.com"

    assert LISTED.destination_of(f"https://{host}/a") is None
    with pytest.raises(httpcore.ConnectError):
        await GuardedBackend().connect_tcp(host, 443)
