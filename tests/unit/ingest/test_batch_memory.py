"""Memory of batches: long errors are sent once for each line, long lines are dropped, and bodies have a limit."""

import asyncio
import json
import tracemalloc
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest

from gregor.auth.device_tokens import Caller
from gregor.core.limits import MIB, Limits
from gregor.core.messages.model import Commit
from gregor.reference.store import MemoryStore
from gregor.reference.store.users import MemoryUsers
from gregor_ingest.auth.actor import Actor
from gregor_ingest.routes.messages.batch_body import BodyMemory, read_array, read_lines
from tests.support.api import NDJSON, Api, code_of
from tests.support.wait import wait_until

PATH = "/v1/messages"
SAME_ERROR = "Same error as the first entry of this line, which has its detail and errors."
KINDS = ["application/json", "application/x-ndjson"]


def invalid_line(uids: int, creations: int = 16) -> dict[str, Any]:
    create = {"i" * 1_000 + str(n): {"category": "ads", "q": 1} for n in range(creations)}
    return {"uids": [f"u{n}" for n in range(uids)], "system": "gregor", "body": {"create": create}}


def encoded(kind: str, documents: list[Any]) -> bytes:
    if kind == "application/json":
        return json.dumps(documents).encode()
    return b"".join(json.dumps(document).encode() + b"\n" for document in documents)


def decoded(kind: str, body: bytes) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = (
        json.loads(body) if kind == "application/json" else list(map(json.loads, body.splitlines()))
    )
    return found


class Client:
    """A client that speaks ASGI to the batch endpoint. It reads nothing until ``is_reading`` is set."""

    def __init__(self, api: Api, token: str, kind: str) -> None:
        self.incoming: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.outgoing: list[dict[str, Any]] = []
        self.is_reading = asyncio.Event()
        headers = [(b"authorization", f"Bearer {token}".encode()), (b"content-type", kind.encode())]
        scope = {"type": "http", "method": "POST", "path": PATH, "query_string": b"", "headers": headers}
        self.serving = asyncio.ensure_future(api.app(scope, self.incoming.get, self._send))

    async def _send(self, message: Any) -> None:
        self.outgoing.append(message)
        await self.is_reading.wait()

    def put(self, body: bytes, *, more: bool = True) -> None:
        self.incoming.put_nowait({"type": "http.request", "body": body, "more_body": more})

    async def finish(self) -> tuple[int, bytes]:
        self.is_reading.set()
        await self.serving
        body = b"".join(message.get("body", b"") for message in self.outgoing)
        return self.outgoing[0]["status"], body


@pytest.mark.parametrize("kind", KINDS)
async def test_long_errors_of_a_line_are_sent_once(api: Api, kind: str) -> None:
    body = encoded(kind, [invalid_line(500), invalid_line(500)])
    answer = await api.call("POST", PATH, content=body, headers={"Content-Type": kind})

    found = decoded(kind, answer.content)
    assert [(entry["line"], entry["uid"]) for entry in found] == [(n, f"u{uid}") for n in (0, 1) for uid in range(500)]
    for first, *others in (found[:500], found[500:]):
        assert len(first["problem"]["errors"]) == 20
        same = {name: first["problem"][name] for name in ("type", "title", "status", "code")}
        for entry in others:
            assert entry["problem"] == same | {"detail": SAME_ERROR}
    assert len(answer.content) < 10 * len(body)


async def test_short_error_of_a_line_is_sent_for_each_user(api: Api) -> None:
    line = {"uids": ["bob", "eve"], "system": "gregor", "body": {"create": {"aa": {"category": "ads", "q": 1}}}}
    first, second = (await api.call("POST", PATH, json=[line])).json()

    assert first["problem"] == second["problem"]
    assert first["problem"]["errors"][0]["pointer"] == "/body/create/aa/q"


async def test_long_array_response_is_written_in_pieces(api: Api) -> None:
    client = Client(api, api.key, KINDS[0])
    client.put(encoded(KINDS[0], [invalid_line(1) for _ in range(40)]), more=False)
    status, body = await client.finish()

    assert status == 200
    assert [entry["line"] for entry in json.loads(body)] == list(range(40))
    assert max(len(message.get("body", b"")) for message in client.outgoing) < 400_000


async def test_ndjson_batch_waits_for_a_client_that_does_not_read(api: Api) -> None:
    client = Client(api, api.key, KINDS[1])
    for _ in range(200):
        client.put(encoded(KINDS[1], [invalid_line(1)]))
    client.put(b"", more=False)
    await wait_until(lambda: client.incoming.qsize() < 180, "some lines are read")
    for _ in range(1_000):
        await asyncio.sleep(0)
    assert client.incoming.qsize() > 100

    status, body = await client.finish()
    assert (status, len(decoded(KINDS[1], body))) == (200, 200)


async def pieces(*given: bytes) -> AsyncIterator[bytes]:
    for piece in given:
        yield piece


async def test_long_line_in_pieces_fails_alone(api: Api) -> None:
    good = encoded(KINDS[1], [{"uid": "bob", "system": "kbfs", "body": 1}])
    body = pieces(good, *[b"[" * 65_536] * 8, b"\n" + good, *[b" " * 65_536] * 8, b"\n" + good)
    answer = await api.call("POST", PATH, content=body, headers=NDJSON)

    found = decoded(KINDS[1], answer.content)
    assert [(entry["line"], entry.get("problem", {}).get("code")) for entry in found] == [
        (0, None),
        (1, "message_too_large"),
        (2, None),
        (4, None),
    ]


@pytest.mark.parametrize(("kind", "refused"), [(KINDS[0], 4), (KINDS[1], 0)])
async def test_bodies_of_a_key_in_memory_are_bounded(kind: str, refused: int) -> None:
    async with Api(max_batch_bytes=MIB) as api:
        token = await api.make_key("ingest", rate=10)
        clients = [Client(api, token, kind) for _ in range(20)]
        for client in clients:
            client.put(b"[" + b" " * (MIB - 2))
        await wait_until(lambda: all(client.incoming.empty() for client in clients), "the bodies are read")
        await wait_until(lambda: sum(bool(client.outgoing) for client in clients) == refused, "some are refused")

        for client in clients:
            client.put(b"]" if kind == KINDS[0] else b"\n", more=False)
        statuses = sorted([(await client.finish())[0] for client in clients])
        assert statuses == [200] * (20 - refused) + [429] * refused
        again = await api.call("POST", PATH, token, json=[])
        assert again.status_code == 200


async def test_other_callers_are_not_refused_for_the_bodies_of_a_key() -> None:
    async with Api(max_batch_bytes=MIB) as api:
        token = await api.make_key("ingest")
        clients = [Client(api, token, KINDS[0]) for _ in range(16)]
        for client in clients:
            client.put(b"[" + b" " * (MIB - 2))
        await wait_until(lambda: all(client.incoming.empty() for client in clients), "the bodies are read")

        answer = await api.call("POST", PATH, token, content=b"[%b]" % (b" " * 100), headers={"Content-Type": KINDS[0]})
        other = await api.call("POST", PATH, json=[])

        for client in clients:
            client.put(b"]", more=False)
            await client.finish()
        assert code_of(answer) == (429, "rate_limited")
        assert "retry-after" in answer.headers
        assert other.status_code == 200


async def test_line_without_an_end_is_dropped_above_the_longest_one(api: Api) -> None:
    client = Client(api, api.key, KINDS[1])
    tracemalloc.start()
    try:
        for _ in range(120):
            client.put(b"[" * 65_536)
            await wait_until(client.incoming.empty, "the piece is read")
        assert tracemalloc.get_traced_memory()[0] < MIB
    finally:
        tracemalloc.stop()
    client.put(b"", more=False)

    status, body = await client.finish()
    assert (status, decoded(KINDS[1], body)[0]["problem"]["code"]) == (200, "message_too_large")


class HeldUsers(MemoryUsers):
    """Users whose commits wait until they are released. Counts the commits that wait."""

    def __init__(self, other: MemoryUsers) -> None:
        self.__dict__.update(other.__dict__)
        self.released = asyncio.Event()
        self.waiting = 0

    async def commit_many(self, commits: Sequence[tuple[str, Commit]]) -> list[Any]:
        self.waiting += 1
        await self.released.wait()
        return await super().commit_many(commits)


@pytest.mark.parametrize(("bytes_each", "decoded_at_once"), [(MIB - 2, 2), (20_000, 6)])
async def test_decoded_arrays_of_a_key_are_bounded(bytes_each: int, decoded_at_once: int) -> None:
    """A decoded array takes up to 17 times its size. Short arrays do not wait for each other."""
    store = MemoryStore(Limits())
    users = store._users = HeldUsers(store.users)
    async with Api(store, max_batch_bytes=MIB) as api:
        line = encoded(KINDS[0], [{"uid": "bob", "system": "kbfs", "body": 1}])
        tokens = [await api.make_key("ingest", rate=100), await api.make_key("ingest", rate=100)]
        clients = [Client(api, tokens[0], KINDS[0]) for _ in range(6)] + [Client(api, tokens[1], KINDS[0])]
        for client in clients:
            client.put(line[:-1] + b" " * (bytes_each - len(line)) + b"]", more=False)
        await wait_until(lambda: users.waiting == decoded_at_once + 1, "some arrays of one key, and that of the other")
        for _ in range(100):
            await asyncio.sleep(0)
        assert users.waiting == decoded_at_once + 1

        users.released.set()
        assert {status for status, _ in [await client.finish() for client in clients]} == {200}


async def tiny_parts(last: bytes) -> AsyncIterator[tuple[bytes, bool]]:
    for _ in range(100_000):
        yield bytes(bytearray(b"[ ")), False  # a copy, as from a socket
    yield last, True


class Held:
    """The bytes of a body that are in memory."""

    size = 0

    def set(self, size: int) -> None:
        self.size = size


async def test_array_in_tiny_parts_takes_little_memory() -> None:
    held = Held()
    tracemalloc.start()
    try:
        body = await read_array(tiny_parts(b""), held.set)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (len(body), held.size) == (200_000, 200_000)
    assert peak < 4 * len(body)


async def test_line_in_tiny_parts_takes_little_memory() -> None:
    held = Held()
    tracemalloc.start()
    try:
        groups = [group async for group in read_lines(tiny_parts(b""), held.set, MIB)]
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    ((((_, line),), _, _),) = groups
    assert (len(line), held.size) == (200_000, 200_000)
    assert peak < 5 * len(line)


# ---- the order of decoding


def caller(device: str) -> Actor:
    return Actor(caller=Caller("bob", device, exp_us=0))


class Decoding:
    """Decodes arrays one after the other, each until it is released. ``begun``: their names, in order."""

    def __init__(self) -> None:
        self.memory = BodyMemory()
        self.begun: list[str] = []
        self.released: dict[str, asyncio.Event] = {}

    async def start(self, name: str, size: int, device: str = "phone") -> asyncio.Task[None]:
        self.released[name] = asyncio.Event()
        task = asyncio.create_task(self._decode(name, size, device))
        await settle()
        return task

    async def _decode(self, name: str, size: int, device: str) -> None:
        async with self.memory.decoding(caller(device), size, 100):
            self.begun.append(name)
            await self.released[name].wait()

    async def release(self, *names: str) -> None:
        for name in names:
            self.released[name].set()
        await settle()


async def settle() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


async def test_large_array_is_decoded_before_smaller_ones_that_arrived_later() -> None:
    decoding = Decoding()
    for name in ("first", "second"):
        await decoding.start(name, 100)
    await decoding.start("large", 200)
    await decoding.start("small", 10)
    await decoding.release("first")
    assert decoding.begun == ["first", "second"]

    await decoding.release("second")
    assert decoding.begun == ["first", "second", "large"]
    await decoding.release("large")
    assert decoding.begun == ["first", "second", "large", "small"]


async def test_cancelled_array_lets_the_next_one_be_decoded() -> None:
    decoding = Decoding()
    await decoding.start("first", 150)
    large = await decoding.start("large", 200)
    await decoding.start("small", 10)
    assert decoding.begun == ["first"]

    large.cancel()
    await settle()
    assert decoding.begun == ["first", "small"]


async def test_waiting_arrays_of_a_device_delay_no_other_device() -> None:
    decoding = Decoding()
    for number in range(10):
        await decoding.start(f"array {number}", 200)
    await decoding.start("other", 200, "laptop")

    assert decoding.begun == ["array 0", "other"]


# ---- the end of a batch over its limits


@pytest.mark.parametrize("limit", ["lines", "bytes"])
async def test_ndjson_batch_over_a_limit_keeps_no_messages_while_its_client_does_not_read(limit: str) -> None:
    async with Api(max_batch=20, max_batch_bytes=900_000) as api:
        client = Client(api, api.key, KINDS[1])
        short = encoded(KINDS[1], [{"uid": "bob", "system": "kbfs", "body": 1}])
        client.put(short)
        await wait_until(lambda: bool(client.outgoing), "the first answer")
        line = b'{"uid":"bob","system":"kbfs","body":[%b[]]}\n' % (b"[]," * 80_000)
        chunks = [line * 2, b"[" * 200_000, b" " * 300_000] if limit == "bytes" else [line * 2 + short * 30 + b"[" * 9]
        tracemalloc.start()
        try:
            for chunk in chunks:
                client.put(chunk)
            await wait_until(client.incoming.empty, "the batch is read")
            await settle()
            kept, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        client.put(b"", more=False)

        status, body = await client.finish()
        assert (status, decoded(KINDS[1], body)[-1]["problem"]["code"]) == (200, "batch_too_large")
        assert kept < 400_000  # the store keeps one body
