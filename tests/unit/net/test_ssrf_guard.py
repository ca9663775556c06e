"""The SSRF guard: requests never reach our own network."""

import asyncio
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from itertools import product
from typing import Any

import httpcore
import pytest

from gregor.net.ssrf_guard import MAX_LOOKUPS, AddressNotPublic, AllowedHosts, GuardedBackend
from gregor_delivery.throttle.user_places import PLACES_OF_USER
from gregor_delivery.throttle.web_push_origins import PLACES_WILDCARD, origin_of
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


@pytest.fixture
def silent_names(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Let the name servers below `silent.example` be silent until the test ends. Returns the names looked up there."""
    release, resolve, lookups = threading.Event(), socket.getaddrinfo, list[str]()

    def silent(host: str, *arguments: Any, **options: Any) -> Any:
        if not host.endswith("silent.example"):
            return resolve(host, *arguments, **options)
        lookups.append(host)
        release.wait(30)
        raise socket.gaierror("no answer")

    monkeypatch.setattr(socket, "getaddrinfo", silent)
    yield lookups
    release.set()


def connect(backend: GuardedBackend, *hosts: str) -> list[asyncio.Task[Any]]:
    return [asyncio.create_task(backend.connect_tcp(host, 443)) for host in hosts]


async def end(connections: list[asyncio.Task[Any]]) -> None:
    for each in connections:
        each.cancel()
    await asyncio.gather(*connections, return_exceptions=True)


async def is_looked_up(backend: GuardedBackend, host: str) -> bool:
    """Return whether the backend finds the private address of a host within 5 s."""
    try:
        async with asyncio.timeout(5):
            await backend.connect_tcp(host, 443)
    except AddressNotPublic:
        return True
    except (TimeoutError, httpcore.ConnectError):
        return False
    raise AssertionError("connected to a private address")


async def test_silent_name_server_does_not_block_other_lookups(silent_names: list[str]) -> None:
    """One user has eight pushes at once. Each waits 10 s for a lookup that takes 30 s, so 24 lookups are under way."""
    backend = GuardedBackend()
    names = [f"h{n}.silent.example" for n in range(3 * PLACES_OF_USER)]
    blocked = connect(backend, *names, *names)
    await wait_until(lambda: len(silent_names) >= len(names), "each name has a thread")

    assert await is_looked_up(backend, "localhost")
    assert sorted(silent_names) == sorted(names)
    await end(blocked)


async def test_silent_name_servers_of_many_users_do_not_block_others(silent_names: list[str]) -> None:
    """More lookups wait than all pushes to names below wildcards can cause."""
    web_push, webhooks = GuardedBackend(fixed_hosts=["localhost"]), GuardedBackend()
    blocked = connect(web_push, *(f"h{n}.silent.example" for n in range(2 * MAX_LOOKUPS)))
    await wait_until(lambda: len(silent_names) >= MAX_LOOKUPS, "the limit is reached")

    assert await is_looked_up(webhooks, "localhost")
    assert await is_looked_up(web_push, "localhost")
    assert len(silent_names) == MAX_LOOKUPS >= 3 * PLACES_WILDCARD
    with pytest.raises(httpcore.ConnectError, match="cannot be resolved"):
        await web_push.connect_tcp("one-more.silent.example", 443)
    await end(blocked)


async def test_default_executor_is_free_while_name_servers_are_silent(silent_names: list[str]) -> None:
    """SMTP, FCM and APNs resolve their hosts there."""
    blocked = connect(GuardedBackend(), *(f"h{n}.silent.example" for n in range(64)))
    await wait_until(lambda: len(silent_names) == 64, "lookups wait")

    async with asyncio.timeout(5):
        await asyncio.get_running_loop().getaddrinfo("127.0.0.1", 25)
    await end(blocked)


def test_process_ends_while_a_name_server_is_silent() -> None:
    program = """
import asyncio, socket, threading
from contextlib import suppress
from gregor.net.ssrf_guard import GuardedBackend

socket.getaddrinfo = lambda *_, **__: threading.Event().wait(60)

async def main():
    with suppress(TimeoutError):
        async with asyncio.timeout(0.1):
            await GuardedBackend().connect_tcp("silent.example", 443)
    print("ends")

asyncio.run(main())
"""
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=False)

    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "ends\n", "")


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
