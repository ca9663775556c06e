"""deploy/haproxy and deploy/nginx: the real proxies, in front of real services.

The same cluster is behind both proxies. The addresses of the clients are 127.0.0.0/8; only 127.0.0.1, from which the
proxies connect, is trusted.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import resource
import select
import signal
import socket
import ssl
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.events import ResponseReceived
from h2.settings import SettingCodes, Settings
from hyperframe.frame import RstStreamFrame
from websockets.asyncio.client import ClientConnection, connect

from gregor.core.close_codes import CloseCode
from tests.support.cluster import Cluster
from tests.support.deploy_tools import output_of, tool
from tests.support.proxies import HaProxy, Nginx, Proxy, ports_of
from tests.support.wait import wait_until, wait_until_sync
from tests.support.wire_device import WireDevice

IDLE = 1_000
PINGS = 3
PER_ADDRESS = 120
"""Connections of one client address (setting MAX_CONNECTIONS_PER_ADDRESS)."""
FIRST_BYTE_S = 0.05
ESTABLISHED = "01"
"""The state of a connection in ``/proc/net/tcp``."""
CLOSING = "04"
"""The state after the proxy has closed a connection whose client has not confirmed everything (FIN-WAIT-1)."""
MAX_UNREAD_BYTES = 131_072
"""Bytes of an unread response in the kernel: the buffers between Gregor and HAProxy."""
MAX_UNREAD_REQUEST = 48_000
"""Bytes that the kernel accepts from a client before the proxy reads them: its two buffers."""
CHEAP = ("X25519", "P-256")
EXPENSIVE = ("X448", "P-384", "P-521", "ffdhe2048", "ffdhe3072")
"""TLS groups that the proxies must not offer. They must offer the cheap ones."""
UPGRADE = (
    b"GET /v1/connect HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: gregor.v1\r\n\r\n"
)
UNFINISHED = (
    "POST /v1/users/a/messages HTTP/1.1\r\nHost: a\r\nX-Real-IP: {client}\r\nContent-Type: application/json\r\n"
    "Content-Length: 1000\r\nExpect: 100-continue\r\n\r\nx"
)
UNSAFE = ssl._create_unverified_context()


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    limits: dict[str, Any] = {"max_connections_per_address": PER_ADDRESS, "handshake_rate": 10_000}
    with Cluster(tmp_path_factory.mktemp("cluster"), ingests=1, trusted_proxies="127.0.0.1", **limits) as cluster:
        yield cluster


@pytest.fixture(scope="module", params=[HaProxy, Nginx], ids=["haproxy", "nginx"])
def proxy(
    request: pytest.FixtureRequest, cluster: Cluster, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Proxy]:
    kind: type[Proxy] = request.param
    tool(kind.name)
    started = kind(cluster, tmp_path_factory.mktemp("proxy") / kind.name)
    # nginx drops root, and its user must reach its folder.
    for folder in (started.directory, *started.directory.parents[:4]):
        folder.chmod(folder.stat().st_mode | 0o055)
    started.start()
    try:
        yield started
    finally:
        started.stop()


@asynccontextmanager
async def client_of(proxy: Proxy, address: str, **headers: str) -> AsyncIterator[httpx.AsyncClient]:
    """Yield an HTTP client that connects from an address of this machine."""
    transport = httpx.AsyncHTTPTransport(verify=UNSAFE, local_address=address)
    async with httpx.AsyncClient(transport=transport, base_url=proxy.url, headers=headers, timeout=30) as client:
        yield client


async def web_socket(proxy: Proxy, address: str, token: str) -> ClientConnection:
    """Open a WebSocket from an address of this machine, through the proxy."""
    return await connect(
        f"wss://127.0.0.1:{proxy.port}/v1/connect",
        subprotocols=["gregor.v1"],  # type: ignore[list-item]
        additional_headers={"Authorization": f"Bearer {token}"},
        ssl=UNSAFE,
        proxy=None,
        ping_interval=None,
        open_timeout=60,
        compression=None,
        local_addr=(address, 0),
    )


def device_at(proxy: Proxy, address: str, token: str, **headers: str) -> WireDevice:
    """Return a device, not yet connected, that connects from an address of this machine and answers pings."""
    all_headers = {"Authorization": f"Bearer {token}", **headers}
    options: dict[str, Any] = {"ssl": UNSAFE, "local_addr": (address, 0), "open_timeout": 60}
    return WireDevice(f"wss://127.0.0.1:{proxy.port}", None, {}, additional_headers=all_headers, **options)


async def test_key_is_bound_to_the_real_address(proxy: Proxy, cluster: Cluster) -> None:
    """The address of the client arrives, and one that the client writes into a header does not count."""
    async with cluster.api() as admin:
        made = await admin.post("/v1/keys", json={"scopes": ["read"], "addresses": ["127.0.0.9/32"]})
        authorization = f"Bearer {made.json()['key']}"
    async with client_of(proxy, "127.0.0.9", Authorization=authorization) as client:
        assert (await client.get("/v1/users/alice/state")).status_code == 200
    forged = {"X-Forwarded-For": "127.0.0.9", "Forwarded": "for=127.0.0.9", "X-Real-IP": "127.0.0.9"}
    async with client_of(proxy, "127.0.0.8", Authorization=authorization, **forged) as client:
        assert (await client.get("/v1/users/alice/state")).status_code == 403


async def test_connections_are_counted_by_real_address(proxy: Proxy, cluster: Cluster) -> None:
    """Two gateways accept at most twice the limit from one address, whatever a header says. Others are not affected."""
    last = 7 if proxy.name == "haproxy" else 6
    async with AsyncExitStack() as stack:
        devices = []
        for number in range(2 * PER_ADDRESS + 10):
            forged = {"X-Forwarded-For": f"127.0.5.{number % 250}"}
            device = device_at(proxy, f"127.0.0.{last}", cluster.token(f"u{number}", "phone"), **forged)
            devices.append(await stack.enter_async_context(device))
        # A refused WebSocket is opened too, and then closed.
        await wait_until(lambda: all(map(is_answered, devices)), "a sync object or a close on each socket", 60)
        ends = Counter(device.close_code for device in devices)
        assert set(ends) == {None, CloseCode.RATE_LIMITED}, f"close codes: {ends}"
        assert ends[None] <= 2 * PER_ADDRESS, f"close codes: {ends}"
        async with device_at(proxy, "127.0.0.5", cluster.token("other", "phone")) as other:
            await other.synced()


def is_answered(device: WireDevice) -> bool:
    return bool(device.syncs) or device.close_code is not None


async def test_unknown_method_stays_at_the_proxy(proxy: Proxy) -> None:
    """Gregor would refuse it before it knows the client, and end the connection of the proxy."""
    async with client_of(proxy, "127.0.0.18") as client:
        for path in ("/nothing", "/v1/connect", "/v1/poll", "/v1/frames"):
            answer = await client.request("BREW", path)
            assert (answer.status_code, "x-request-id" in answer.headers) == (501, False)
        for method in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"):
            assert "x-request-id" in (await client.request(method, "/nothing")).headers


@pytest.mark.parametrize("proxy", [HaProxy], indirect=True, ids=["haproxy"])
async def test_haproxy_answers_a_client_that_resets_its_requests(proxy: Proxy, cluster: Cluster) -> None:
    """Gregor needs five times the CPU to refuse one, and cannot end the connection of a proxy."""

    async def reset(address: str) -> None:
        _, writer = await asyncio.open_connection("127.0.0.1", proxy.port, ssl=UNSAFE, local_addr=(address, 0))
        writer.write(b"GET /v1/poll HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer x.y.z\r\n\r\n")
        await writer.drain()
        writer.transport.abort()

    # Not the deployed 2,000 in 10 s: a slow machine does not make so many TLS handshakes beside the test.
    async with (
        changed_configuration(proxy, r"(sc_http_err_rate\(0\) gt) 2000", r"\1 100"),
        client_of(proxy, "127.0.0.12") as stranger,
        client_of(proxy, "127.0.0.13") as other,
    ):
        for _ in range(100):
            await asyncio.gather(*(reset("127.0.0.12") for _ in range(50)))
            answer = await stranger.get("/nothing")
            if "x-request-id" not in answer.headers:
                break
        assert answer.status_code == 429
        assert (await other.get("/nothing")).headers["x-request-id"]


@asynccontextmanager
async def changed_configuration(proxy: Proxy, old: str, new: str) -> AsyncIterator[None]:
    """Replace a regular expression in the configuration of a proxy inside the context.

    The proxy restarts: after a reload, old workers may accept some connections.
    """
    text = proxy.file.read_text()
    changed = re.sub(old, new, text)
    assert changed != text, f"deploy/ no longer has {old!r}"
    restart(proxy, changed)
    try:
        yield
    finally:
        restart(proxy, text)


def restart(proxy: Proxy, configuration: str) -> None:
    # Not in another thread: the process ends with the thread that started it.
    proxy.stop()
    proxy.file.write_text(configuration)
    proxy.start()


@pytest.mark.parametrize(
    ("proxy", "old", "new"),
    [
        (HaProxy, r"(sc1_http_req_rate gt) 4000", r"\1 100"),
        (Nginx, r"(?s)rate=400r/s(.*) burst=400 ", r"rate=1r/m\1 burst=100 "),
    ],
    indirect=["proxy"],
    ids=["haproxy", "nginx"],
)
async def test_proxy_limits_the_handshakes_of_an_address(proxy: Proxy, old: str, new: str, cluster: Cluster) -> None:
    """A gateway refuses a WebSocket after its upgrade, which is not an error for a proxy."""

    async def answer(address: str) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port, ssl=UNSAFE, local_addr=(address, 0))
        writer.write(UPGRADE)
        async with asyncio.timeout(30):
            status = (await reader.readline()).split()[1]
        writer.transport.abort()
        return status

    async with changed_configuration(proxy, old, new):
        answers = Counter([await answer("127.0.0.16") for _ in range(104)])
        assert answers[b"101"] >= 100 and set(answers) == {b"101", b"429"}, answers
        assert await answer("127.0.0.17") == b"101"
        async with client_of(proxy, "127.0.0.16") as same:
            assert (await same.get("/nothing")).headers["x-request-id"]


async def unfinished(proxy: Proxy, address: str, stack: AsyncExitStack, client: str = "") -> bytes:
    """Send a request without its body, and return the first status. The connection is open until the stack closes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port, ssl=UNSAFE, local_addr=(address, 0))
    # Not a bound method: the stack must keep the writer, which closes the connection when it is deleted.
    stack.callback(lambda: writer.transport.abort())
    writer.write(UNFINISHED.format(client=client).encode())
    async with asyncio.timeout(30):
        line = await reader.readline()
    if not line:
        raise ConnectionAbortedError("the proxy closed the connection")
    return line.split()[1]


@pytest.mark.parametrize("proxy", [HaProxy], indirect=True, ids=["haproxy"])
async def test_haproxy_limits_the_connections_of_an_address(proxy: Proxy, cluster: Cluster) -> None:
    """A request whose body never arrives keeps its connection to HAProxy after Gregor's response."""
    async with changed_configuration(proxy, r"(sc2_conn_cur gt) 2000", r"\1 5"):
        async with AsyncExitStack() as stack:
            assert [await unfinished(proxy, "127.0.0.20", stack) for _ in range(5)] == [b"401"] * 5
            with pytest.raises(OSError):
                await unfinished(proxy, "127.0.0.20", stack)
            assert await unfinished(proxy, "127.0.0.21", stack) == b"401"
        await until_answered(proxy, "127.0.0.20", b"401")


@pytest.mark.parametrize("proxy", [HaProxy], indirect=True, ids=["haproxy"])
async def test_haproxy_limits_the_rate_of_connections_of_an_address(proxy: Proxy, cluster: Cluster) -> None:
    """400 first TLS messages a second from one address, each of 250 bytes, used most of a core."""
    async with changed_configuration(proxy, r"(sc2_gpc0_rate gt) 2000", r"\1 5"):
        async with AsyncExitStack() as stack:
            assert [await unfinished(proxy, "127.0.0.33", stack) for _ in range(6)] == [b"401"] * 6
            with pytest.raises(OSError):
                await unfinished(proxy, "127.0.0.33", stack)
            assert await unfinished(proxy, "127.0.0.34", stack) == b"401"
        # Rejected attempts do not count, so one is accepted as soon as the first six are older than 10 s.
        await until_answered(proxy, "127.0.0.33", b"401")


@pytest.mark.parametrize(("group", "is_offered"), [*((each, True) for each in CHEAP), *((e, False) for e in EXPENSIVE)])
async def test_only_cheap_key_exchanges_are_offered(proxy: Proxy, group: str, is_offered: bool) -> None:
    """A first TLS message costs the proxy a key exchange: 0.6 ms of CPU with X25519, 2.3 ms with ffdhe3072."""
    handshake = [tool("openssl"), "s_client", "-connect", f"127.0.0.1:{proxy.port}", "-groups", group]
    await asyncio.to_thread(output_of, handshake, status=0 if is_offered else 1)


async def test_connection_without_a_tls_handshake_is_closed(proxy: Proxy) -> None:
    """HAProxy kept such a connection for 70 s (`timeout client`)."""
    async with changed_configuration(proxy, "(timeout client-hs|client_header_timeout) 10s", r"\1 1s"):
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
        async with asyncio.timeout(20):
            assert await reader.read() == b""
        writer.close()


@pytest.mark.parametrize("proxy", [HaProxy], indirect=True, ids=["haproxy"])
async def test_haproxy_refuses_to_upgrade_other_paths_over_http2(proxy: Proxy, cluster: Cluster) -> None:
    """HAProxy connected to Gregor, reset the connection, and answered 500, which it does not count as an error."""
    path = "/v1/users/a/messages"
    async with changed_configuration(proxy, r"(sc_http_err_rate\(0\) gt) 2000", r"\1 20"), AsyncExitStack() as stack:
        statuses = await unread_statuses(proxy, "127.0.0.36", path, 21, stack, protocol="websocket", data=b"x" * 8)
        assert set(statuses) == {"400"}
        assert await unread_statuses(proxy, "127.0.0.36", path, 1, stack, protocol="websocket") == ["429"]
        assert await unread_statuses(proxy, "127.0.0.37", "/v1/connect", 1, stack, protocol="websocket") == ["200"]
        async with client_of(proxy, "127.0.0.37", Upgrade="h2c", Connection="Upgrade") as http1:
            assert "x-request-id" in (await http1.get("/nothing")).headers


async def unread_statuses(
    proxy: Proxy,
    address: str,
    path: str,
    number: int,
    stack: AsyncExitStack,
    *,
    protocol: str = "",
    data: bytes = b"",
) -> list[str]:
    """Send requests or handshakes over HTTP/2 with a window of 0, and return the statuses.

    ``protocol``: that of a handshake; ``data``: sent at once behind it. The stack resets the requests at its end:
    HAProxy would keep some of them for 70 s (`timeout client`) if only their connection ended.
    """
    context = ssl._create_unverified_context()
    context.set_alpn_protocols(["h2"])
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port, ssl=context, local_addr=(address, 0))
    stack.callback(lambda: writer.close())
    http2 = H2Connection()
    http2.local_settings = Settings(initial_values={SettingCodes.INITIAL_WINDOW_SIZE: 0})
    http2.initiate_connection()
    method = [(":method", "CONNECT"), (":protocol", protocol)] if protocol else [(":method", "GET")]
    fields = [*method, (":scheme", "https"), (":path", path), (":authority", "gregor"), ("sec-websocket-version", "13")]
    resets = b""
    for _ in range(number):
        stream = http2.get_next_available_stream_id()
        http2.send_headers(stream, fields, end_stream=not protocol)
        if data:
            http2.send_data(stream, data)
        resets += RstStreamFrame(stream, error_code=ErrorCodes.CANCEL).serialize()
    stack.callback(lambda: writer.write(resets))
    statuses: list[str] = []
    async with asyncio.timeout(30):
        while len(statuses) < number:
            writer.write(http2.data_to_send())
            events = http2.receive_data(await reader.read(65_536))
            for each in events:
                if isinstance(each, ResponseReceived):
                    is_whole = "" if each.stream_ended is None else " without a body"
                    statuses.append(dict(each.headers or ())[b":status"].decode() + is_whole)
    return statuses


async def test_receive_buffer_of_a_client_is_limited(proxy: Proxy) -> None:
    """OpenSSL reads all waiting TLS key updates in one call: 11 MB of them stopped a thread of HAProxy for over 2 s."""
    workers = [int(each) for each in proxy.workers()]
    client = socket.create_connection(("127.0.0.1", proxy.port))
    client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4_096)
    with UNSAFE.wrap_socket(client, server_hostname="localhost") as encrypted:
        await asyncio.to_thread(post_long_body, encrypted)
        for each in workers:
            os.kill(each, signal.SIGSTOP)
        try:
            accepted = await asyncio.to_thread(bytes_until_full, encrypted.fileno())
        finally:
            for each in workers:
                os.kill(each, signal.SIGCONT)
    print(f"the kernel accepts {accepted / 1024:.0f} KiB that {proxy.name} has not read")
    assert accepted < MAX_UNREAD_REQUEST


def post_long_body(client: ssl.SSLSocket) -> None:
    """Post 7 MB and read the response. This makes the kernel enlarge a receive buffer that has no fixed size."""
    client.sendall(b"POST /v1/users/a/messages HTTP/1.1\r\nHost: a\r\nContent-Length: 7000000\r\n\r\n")
    client.sendall(bytes(7_000_000))
    assert client.recv(65_536).startswith(b"HTTP/1.1 401 ")


def bytes_until_full(client: int) -> int:
    """Write until the socket has accepted nothing for half a second, and return the number of bytes."""
    written = 0
    os.set_blocking(client, False)
    while select.select([], [client], [], 0.5)[1]:
        written += os.write(client, bytes(1_024))
    return written


def kernel_bytes(port: int, state: str = ESTABLISHED) -> int:
    """Return the bytes in the send and receive queues of all connections to a port of this machine."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    queues = [row[4].split(":") for row in rows if f":{port:04X}" in (row[1][8:], row[2][8:]) and row[3] == state]
    return sum(int(sent, 16) + int(received, 16) for sent, received in queues)


@pytest.mark.parametrize("proxy", [HaProxy], indirect=True, ids=["haproxy"])
async def test_unread_responses_behind_haproxy_are_bounded(proxy: Proxy, cluster: Cluster) -> None:
    """Each kept 440 KiB in the kernel, and did not count for its address: 1.8 GiB in a minute."""
    (port, *_) = ports_of(cluster.ingests[0])
    async with AsyncExitStack() as stack:
        statuses = [
            await unread_statuses(proxy, "127.0.0.22", "/openapi.json", PER_ADDRESS // 2, stack) for _ in range(2)
        ]
        refused = await unread_statuses(proxy, "127.0.0.22", "/openapi.json", 1, stack)
        kept = kernel_bytes(port)
        print(f"{kept / PER_ADDRESS / 1024:.0f} KiB of each unread response are in the kernel")
        assert (statuses, refused) == ([["200"] * (PER_ADDRESS // 2)] * 2, ["429"])
        assert kept <= PER_ADDRESS * MAX_UNREAD_BYTES
        async with client_of(proxy, "127.0.0.23") as other:
            assert len((await other.get("/openapi.json")).content) > MAX_UNREAD_BYTES
    await until_answered(proxy, "127.0.0.22", b"401")


@pytest.mark.parametrize("proxy", [HaProxy], indirect=True, ids=["haproxy"])
async def test_unread_responses_of_closed_connections_leave_the_kernel(proxy: Proxy, cluster: Cluster) -> None:
    """They stayed for minutes, and counted nowhere: 2.8 MiB a second of one address."""
    async with changed_configuration(proxy, "tcp-ut 30s", "tcp-ut 2s"), AsyncExitStack() as stack:
        for _ in range(5):
            client = stack.enter_context(socket.socket())
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, 1_460)
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2_304)
            client.bind(("127.0.0.32", 0))
            client.connect(("127.0.0.1", proxy.port))
            # asyncio would read on behind a paused TLS connection.
            encrypted = stack.enter_context(UNSAFE.wrap_socket(client, server_hostname="localhost"))
            encrypted.sendall(b"GET /asyncapi.json HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        await wait_until(lambda: kernel_bytes(proxy.port, CLOSING) > 50_000, "the proxy closes the connections")
        await wait_until(lambda: kernel_bytes(proxy.port, CLOSING) == 0, "the kernel ends them", 20)


@pytest.mark.parametrize("proxy", [HaProxy], indirect=True, ids=["haproxy"])
async def test_haproxy_limits_the_concurrent_requests_of_an_address(proxy: Proxy, cluster: Cluster) -> None:
    """An unread response that HAProxy has received whole has ended for Gregor."""
    token = {"Authorization": f"Bearer {cluster.token('streaming', 'web')}"}
    async with changed_configuration(proxy, r"(sc1_conn_cur gt) 400", r"\1 5"):
        async with AsyncExitStack() as stack:
            statuses = await unread_statuses(proxy, "127.0.0.24", "/docs", 6, stack)
            assert sorted(statuses) == ["200"] * 5 + ["429"]
            async with client_of(proxy, "127.0.0.24", **token) as same, same.stream("GET", "/v1/stream") as stream:
                assert stream.status_code == 200
            assert await unfinished(proxy, "127.0.0.25", stack) == b"401"
        await until_answered(proxy, "127.0.0.24", b"401")


@pytest.mark.parametrize("proxy", [HaProxy], indirect=True, ids=["haproxy"])
async def test_haproxy_limits_the_websockets_of_an_address(proxy: Proxy, cluster: Cluster) -> None:
    """Gregor closes a WebSocket without a token. HAProxy keeps it until the client has room for the close frame."""
    async with changed_configuration(proxy, r"(connect /v1/stream /v1/poll } { sc1_conn_cur gt) 2000", r"\1 5"):
        async with AsyncExitStack() as stack:
            statuses = await unread_statuses(proxy, "127.0.0.26", "/v1/connect", 8, stack, protocol="websocket")
            assert Counter(statuses) == {"200": 5, "429": 3}
            async with device_at(proxy, "127.0.0.27", cluster.token("beside", "phone")) as other:
                await other.synced()
        await until_answered(proxy, "127.0.0.26", b"401")


@pytest.mark.parametrize("proxy", [HaProxy], indirect=True, ids=["haproxy"])
@pytest.mark.parametrize(("path", "limit"), [("/docs", "800"), ("/v1/poll", "4000"), ("/v1/connect", "4000")])
async def test_haproxy_keeps_no_unread_refusals_above_twice_a_limit(
    proxy: Proxy, cluster: Cluster, path: str, limit: str
) -> None:
    """HAProxy kept each unread 429 for 70 s: 1.1 GiB for one address. The connection may be that of a neighbour."""
    async with changed_configuration(proxy, rf"(sc1_conn_cur gt) {limit}", r"\1 5"):
        async with AsyncExitStack() as stack:
            protocol = "websocket" if path == "/v1/connect" else ""
            statuses = await unread_statuses(proxy, "127.0.0.28", path, 6, stack, protocol=protocol)
            assert statuses.count("429 without a body") == 1, statuses
            async with device_at(proxy, "127.0.0.29", cluster.token("beside", "phone")) as other:
                await other.synced()
        await until_answered(proxy, "127.0.0.28", b"401")


@pytest.mark.parametrize("proxy", [Nginx], indirect=True, ids=["nginx"])
async def test_nginx_limits_the_concurrent_requests_of_an_address(proxy: Proxy, cluster: Cluster) -> None:
    """nginx waits for the body before it connects to Gregor, so only nginx can refuse such a request."""
    # Not the deployed 10 s: on a slow machine, the first request could end before the last one is sent.
    old, new = r"(?s)(gregor_clients) 400;(.*client_body_timeout) 10s", r"\1 5;\2 60s"
    async with changed_configuration(proxy, old, new):
        async with AsyncExitStack() as stack:
            assert [await unfinished(proxy, "127.0.0.20", stack) for _ in range(5)] == [b"100"] * 5
            assert await unfinished(proxy, "127.0.0.20", stack) == b"429"
            assert await unfinished(proxy, "127.0.0.21", stack) == b"100"
        await until_answered(proxy, "127.0.0.20", b"100")


@pytest.mark.parametrize("proxy", [Nginx], indirect=True, ids=["nginx"])
async def test_nginx_counts_the_clients_of_an_ipv6_network_together(proxy: Proxy, cluster: Cluster) -> None:
    """A client of IPv6 usually has a /64 network, and can use any number of addresses in it."""
    old, new = r"(?s)limit_conn (gregor_clients) 400;(.*client_body_timeout) 10s", r"limit_conn \1 5;\2 60s"
    real_ip = "set_real_ip_from 127.0.0.20; real_ip_header X-Real-IP; "
    async with changed_configuration(proxy, old, real_ip + new), AsyncExitStack() as stack:
        for number in range(5):
            assert await unfinished(proxy, "127.0.0.20", stack, f"2001:db8::a:{number}") == b"100"
        assert await unfinished(proxy, "127.0.0.20", stack, "2001:db8::b:1") == b"429"
        assert await unfinished(proxy, "127.0.0.20", stack, "2001:db8:0:1::b:1") == b"100"


@pytest.mark.parametrize("proxy", [Nginx], indirect=True, ids=["nginx"])
async def test_nginx_counts_unread_responses(proxy: Proxy, cluster: Cluster) -> None:
    """Before, the kernel took up to 4 MB of a response, and its request had then ended: 367 MiB in 28 s."""
    async with changed_configuration(proxy, r"(limit_conn gregor_clients) 400", r"\1 5"), AsyncExitStack() as stack:
        for _ in range(5):
            await leave_unread(proxy, "127.0.0.30", "/openapi.json", stack)
        await until_answered(proxy, "127.0.0.30", b"429")
        assert await unfinished(proxy, "127.0.0.31", stack) == b"100"


async def leave_unread(proxy: Proxy, address: str, path: str, stack: AsyncExitStack) -> None:
    """Read one response fast: the kernel extends the proxy's send buffer. Then send a request, and read nothing."""
    connected = socket.socket()
    # The segment size of the Internet: on the loopback interface, a segment has up to 64 KiB.
    connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, 1_460)
    connected.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1_048_576)
    connected.bind((address, 0))
    connected.setblocking(False)
    await asyncio.get_running_loop().sock_connect(connected, ("127.0.0.1", proxy.port))
    reader, writer = await asyncio.open_connection(sock=connected, ssl=UNSAFE, server_hostname="localhost")
    stack.callback(lambda: writer.transport.abort())
    request = f"GET {path} HTTP/1.1\r\nHost: a\r\nAccept-Encoding: identity\r\n\r\n".encode()
    writer.write(request)
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    size = int(head.partition(b"content-length: ")[2].split()[0])
    await reader.readexactly(size)
    assert isinstance(writer.transport, asyncio.Transport)
    writer.transport.pause_reading()
    connected.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2_304)
    writer.write(request)
    await writer.drain()


async def until_answered(proxy: Proxy, address: str, status: bytes) -> None:
    """Wait until the proxy answers with this status: it counts earlier requests, and their end, after a moment."""
    answer = b""
    async with asyncio.timeout(30):
        while answer != status:
            async with AsyncExitStack() as stack:
                with suppress(OSError):
                    answer = await unfinished(proxy, address, stack)


@pytest.mark.parametrize("proxy", [Nginx], indirect=True, ids=["nginx"])
async def test_body_that_no_gateway_reads_stays_at_nginx(proxy: Proxy, cluster: Cluster) -> None:
    """A gateway that resets the connection counts as failed: two such requests would take both out for 2 s."""
    async with client_of(proxy, "127.0.0.14") as stranger:
        for path in ("/v1/connect", "/v1/poll", "/v1/stream", "/v1/frames"):
            assert (await stranger.request("GET", path, content=b"x" * 8_000_000)).status_code == 413
    async with device_at(proxy, "127.0.0.15", cluster.token("beside", "phone")) as device:
        await device.synced()


@pytest.mark.parametrize("proxy", [Nginx], indirect=True, ids=["nginx"])
@pytest.mark.parametrize("path", ["/v1/connect", "/v1/poll", "/v1/frames"])
async def test_refused_body_takes_no_gateway_out_of_nginx(proxy: Proxy, cluster: Cluster, path: str) -> None:
    """Also with a configuration that forwards bodies: a gateway reads on before it closes."""
    protection = r" +client_max_body_size 1m?;\n| +proxy_set_header Connection \"\";\n"
    async with changed_configuration(proxy, protection, ""), client_of(proxy, "127.0.0.14") as stranger:
        for _ in range(8):
            answer = await stranger.request("PUT", path, content=b"x" * 8_000_000)
            assert (answer.status_code, "x-request-id" in answer.headers) == (405, True)
        async with device_at(proxy, "127.0.0.15", cluster.token("beside", "phone")) as device:
            await device.synced()


@pytest.mark.parametrize("proxy", [Nginx], indirect=True, ids=["nginx"])
async def test_long_response_head_takes_no_server_out_of_nginx(proxy: Proxy, cluster: Cluster) -> None:
    """Responses repeat an origin and the query of a page. nginx treats a server as failed if their head is too long."""
    item = {"create": {name: {"category": "mail"} for name in ("one", "two")}}
    filters = [("category_prefix", "mail"), *(("category_prefix", f"{n:03}{'x' * 125}") for n in range(50))]
    host = f"{'x' * 4_000}.example"
    async with client_of(proxy, "127.0.0.18", Authorization=f"Bearer {cluster.key}") as backend:
        sent = await backend.post("/v1/users/pages/messages", json={"system": "gregor", "body": item})
        assert sent.status_code == 200
        async with client_of(proxy, "127.0.0.19") as stranger:
            for path in ("/v1/users/pages/state", "/v1/stream", "/v1/poll") * 3:
                answer = await stranger.get(path, headers={"Host": host, "Origin": f"https://{host}"})
                assert "x-request-id" in answer.headers, path
                assert len(str(answer.headers)) < 4_000
        for _ in range(3):
            page = await backend.get("/v1/users/pages/history", params=[("limit", "1"), *filters])
            assert (page.status_code, len(page.headers["link"]) > 6_000) == (200, True)


async def test_first_event_leaves_at_once(proxy: Proxy, cluster: Cluster) -> None:
    """The proxy adds at most 50 ms until the first byte of the body. A buffer would wait for more.

    The shortest of 20 times counts: other work on the machine can only make them longer.
    """
    times: dict[str, list[float]] = {proxy.url: [], cluster.stream_urls[0]: []}
    async with client_of(proxy, "127.0.0.4") as client:
        for number in range(20):
            for url, seconds in times.items():
                token = {"Authorization": f"Bearer {cluster.token(f'stream-{number}', 'web')}"}
                began = time.perf_counter()
                async with client.stream("GET", f"{url}/v1/stream", headers=token) as response:
                    assert response.status_code == 200, await response.aread()
                    await anext(response.aiter_raw())
                    seconds.append(time.perf_counter() - began)

    through, direct = map(min, times.values())
    print(f"{proxy.name}: first byte {1e3 * through:.1f} ms, direct {1e3 * direct:.1f}")
    assert through - direct <= FIRST_BYTE_S


async def test_change_arrives_on_an_open_stream(proxy: Proxy, cluster: Cluster) -> None:
    async with (
        client_of(proxy, "127.0.0.4", Authorization=f"Bearer {cluster.token('bob', 'web')}") as client,
        client.stream("GET", "/v1/stream") as response,
    ):
        lines = response.aiter_lines()
        await until_line(lines, '"sync"')
        async with client_of(proxy, "127.0.0.4", Authorization=f"Bearer {cluster.key}") as backend:
            item: dict[str, Any] = {"create": {f"id-{proxy.name}": {"category": "mail", "body": 1}}}
            sent = await backend.post("/v1/users/bob/messages", json={"system": "gregor", "body": item})
            assert sent.status_code == 200
        await asyncio.wait_for(until_line(lines, f"id-{proxy.name}"), 5)


async def until_line(lines: AsyncIterator[str], part: str) -> None:
    async for line in lines:
        if part in line:
            return
    raise AssertionError(f"the stream ended without {part}")


async def test_idle_sockets_survive_pings_and_a_reload(proxy: Proxy, cluster: Cluster) -> None:
    """1,000 idle WebSockets over three pings of 25 s; after the second one the proxy reloads its configuration."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    pings = dict.fromkeys(range(IDLE), 0)
    sockets: dict[int, ClientConnection] = {}
    living: list[asyncio.Task[None]] = []

    async def live(number: int) -> None:
        socket = sockets[number]
        await socket.send('{"hello":{}}')
        async for text in socket:
            frame = json.loads(text)
            if "ping" in frame:
                pings[number] += 1
                await socket.send(json.dumps({"pong": frame["ping"]}))

    try:
        async with AsyncExitStack() as stack:
            for number in range(IDLE):
                token = cluster.token(f"idle-{proxy.name}-{number}", "phone")
                sockets[number] = await web_socket(proxy, f"127.0.1.{number // 100 + 1}", token)
                stack.push_async_callback(sockets[number].close)
                # At once: a gateway waits 15 s for the first frame.
                living.append(asyncio.create_task(live(number)))
            await wait_until(lambda: min(pings.values()) >= PINGS - 1, "two pings on each socket", 90)
            await asyncio.to_thread(proxy.reload)
            async with device_at(proxy, "127.0.0.3", cluster.token("new", "phone")) as device:
                await device.synced()
            await wait_until(lambda: min(pings.values()) >= PINGS, "three pings on each socket", 60)
            assert not any(task.done() for task in living)
            for task in living:
                task.cancel()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize("proxy", [HaProxy], indirect=True, ids=["haproxy"])
async def test_haproxy_shows_its_metrics_to_private_addresses_only(proxy: Proxy) -> None:
    """Loopback addresses other than 127.0.0.1 are the public ones here."""
    found = re.search(r"frontend metrics\n +bind 127\.0\.0\.1:(\d+)", proxy.file.read_text("utf-8"))
    assert found is not None
    url = f"http://127.0.0.1:{found[1]}/metrics"

    async def metrics_for(address: str) -> str:
        transport = httpx.AsyncHTTPTransport(local_address=address)
        async with httpx.AsyncClient(transport=transport, trust_env=False) as client:
            return (await client.get(url)).text

    assert "haproxy_process" in await metrics_for("127.0.0.30")
    async with changed_configuration(proxy, r"127\.0\.0\.0/8", "127.0.0.1"):
        assert "haproxy_process" in await metrics_for("127.0.0.1")
        with pytest.raises(httpx.TransportError):
            await metrics_for("127.0.0.30")


def test_configuration_has_no_warning(proxy: Proxy) -> None:
    """The proxies themselves find no mistake."""
    check = [tool(proxy.name), "-c", "-f"] if proxy.name == "haproxy" else [tool(proxy.name), "-t", "-c"]
    said = output_of([*check, str(proxy.file)])

    assert "WARNING" not in said and "[warn]" not in said, said


def test_log_has_no_query(proxy: Proxy) -> None:
    """The query of /v1/stream may contain a ticket."""
    httpx.get(f"{proxy.url}/v1/stream?ticket=planted-secret", verify=False, trust_env=False)

    wait_until_sync(lambda: "/v1/stream" in access_log(proxy), "the request is logged", 5)
    assert "planted-secret" not in everything_logged(proxy)


@pytest.mark.parametrize(
    ("path", "logged"),
    [
        ("/v1/unsubscribe/planted-secret", "/v1/unsubscribe/[redacted]"),
        ("/v1/unsub%73cribe/planted-secret", "/v1/unsubscribe/[redacted]"),
        ("/V1/Unsubscribe/a/planted-secret", "/v1/unsubscribe/[redacted]"),
        ("/v1/keys/gk_abcdefghijkl_planted-secret", "/v1/keys/[redacted]"),
        ("/v1/keys/abcdefghijkl", "/v1/keys/abcdefghijkl"),
        ("/v1/users/unsubscribe", "/v1/users/unsubscribe"),
    ],
)
async def test_log_has_no_secret_of_a_path(proxy: Proxy, path: str, logged: str) -> None:
    """An unsubscribe token is a credential that never expires. Other paths are logged as they are."""
    methods = ("GET", "POST", "BREW")
    async with client_of(proxy, "127.0.0.33") as client:
        before = len(lines_of(proxy, "127.0.0.33"))
        for method in methods:
            await client.request(method, path, params={"a": "b"})
    await wait_until(lambda: len(lines_of(proxy, "127.0.0.33")) >= before + 3, "the requests are logged", 5)

    for line, method in zip(lines_of(proxy, "127.0.0.33")[before:], methods, strict=True):
        assert line.endswith(f" {method} {logged}")
    assert "planted-secret" not in everything_logged(proxy)


@pytest.mark.parametrize("target", ["/v1/unsubscribe/planted-secret", "/v1/poll?ticket=planted-secret"])
async def test_refused_request_logs_no_secret(proxy: Proxy, target: str) -> None:
    """The error log of nginx repeats the line of a request that is stored on the disk, too long or malformed."""
    async with client_of(proxy, "127.0.0.34") as client:
        before = len(lines_of(proxy, "127.0.0.34"))
        await client.post(target, content=b"x" * 100_000)
        await client.post(target, content=b"x" * 10_000_000)
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port, ssl=UNSAFE, local_addr=("127.0.0.34", 0))
    writer.write(f"GET {target} HTTP/1.1\r\nHost: a\r\nBad header\r\n\r\n".encode())
    assert b" 400 " in await reader.readline()
    writer.close()

    await wait_until(lambda: len(lines_of(proxy, "127.0.0.34")) >= before + 3, "the requests are logged", 5)
    assert "planted-secret" not in everything_logged(proxy)


@pytest.mark.parametrize("end", ["%zz", "%a", "%", "%a/", "%25%"])
async def test_path_with_a_malformed_escape_logs_no_secret(proxy: Proxy, end: str) -> None:
    before = len(lines_of(proxy, "127.0.0.35"))
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port, ssl=UNSAFE, local_addr=("127.0.0.35", 0))
    writer.write(f"GET /v1/unsubscribe/planted-secret{end} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n".encode())
    await reader.read()
    writer.close()

    await wait_until(lambda: len(lines_of(proxy, "127.0.0.35")) > before, "the request is logged", 5)
    assert "planted-secret" not in everything_logged(proxy)


def lines_of(proxy: Proxy, address: str) -> list[str]:
    """Return the lines of the access log about a client."""
    return [line for line in access_log(proxy).splitlines() if line.startswith(f"{address} ")]


def access_log(proxy: Proxy) -> str:
    log = proxy.directory / ("log" if proxy.name == "haproxy" else "access.log")
    return log.read_text() if log.exists() else ""


def everything_logged(proxy: Proxy) -> str:
    """Return the access log, and what the proxy wrote to its standard error: the error log of nginx."""
    return access_log(proxy) + (proxy.directory / "log").read_text()
