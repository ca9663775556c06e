"""The attacks of `tests.bench attacks`: one process each, bounded in time, bytes and sockets."""

from __future__ import annotations

import json
import os
import socket
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from tests.bench.sockets import address
from tests.support.builders import NOW, interval, item, message

HALF_OPEN = 2_000
"""Sockets of the slow-loris attack, for each port."""
GONE_S = 30.0
Job = dict[str, Any]


def main() -> None:
    """Read a job from standard input, attack until its end, and print what was measured."""
    job = json.load(sys.stdin)
    take_what_is_left()
    print(json.dumps(ATTACKS[job["attack"]](job)))


# --- before any token


def pipeline(job: Job) -> Job:
    """H1: a megabyte of pipelined requests on a connection, and no answer is read."""
    requests = b"GET /openapi.json HTTP/1.1\r\nHost: a\r\n\r\n" * 27_000
    held: list[socket.socket] = []
    for _ in _turns(job, 0.5):
        held.append(_send(job["ingest"], requests))
    return {"connections": len(held)}


def cookie(job: Job) -> Job:
    """H2: a cookie of 60 KB whose parsing takes quadratic time."""
    head = 'GET /v1/poll HTTP/1.1\r\nHost: a\r\nCookie: gregor_token="' + '\\"' * 30_000 + '"\r\n\r\n'
    count = 0
    for _ in _turns(job, 0.25):
        _send(job["stream"], head.encode())
        count += 1
    return {"requests": count}


def hello(job: Job) -> Job:
    """H3: a first frame of a megabyte, nested deeply, with a number that no double holds."""
    text = ('{"hello":{"a":[' + ",".join(["[" * 58 + "0,0,0" + "]" * 58] * 8_000) + ",1e999]}}").encode()
    upgrade = (
        b"GET /v1/connect HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n"
        b"Sec-WebSocket-Protocol: gregor.v1\r\n\r\n"
    )
    frame = b"\x81\xff" + len(text).to_bytes(8, "big") + b"\0\0\0\0" + text
    count = 0
    for _ in _turns(job, 0.5):
        _send(job["gateway"], upgrade + frame)
        count += 1
    return {"frames": count}


def slow_loris(job: Job) -> Job:
    """Open thousands of sockets to each public port, send half a head, and wait until the server closes them."""
    held: list[socket.socket] = []
    for place in (job["gateway"], job["stream"], job["ingest"]):
        for number in range(HALF_OPEN):
            with suppress(OSError):
                # each from another address: the limit of an address must not be what helps
                source = (f"127.{1 + number // 250}.{1 + len(held) // 65_000}.{1 + number % 250}", 0)
                opened = socket.create_connection(address(place), 5, source)
                opened.sendall(b"GET / HTTP/1.1\r\nHos")
                held.append(opened)
    opened_at, gone_s = time.monotonic(), 0.0
    for each in held:
        each.settimeout(max(0.1, opened_at + GONE_S - time.monotonic()))
        try:
            while each.recv(4_096):
                pass
        except TimeoutError:
            return {"sockets": len(held), "gone_s": float("inf")}
        except OSError:
            pass
        gone_s = time.monotonic() - opened_at
    return {"sockets": len(held), "gone_s": gone_s}


# --- with one device token


def refused_lines(job: Job) -> Job:
    """H4: batches of deeply nested lines, each with a number out of range."""
    line = json.dumps({"uid": "mallory", "system": "s", "body": 0})[:-2]
    line += "[" * 55 + ",".join(["0"] * 60_000) + "]" * 55 + "}"
    body = ("\n".join([line.replace("0,0,0", "0,1e999,0", 1)] * 8) + "\n").encode()
    count = 0
    for _ in _turns(job, 0.5):
        _send(job["ingest"], _post("/v1/messages", job["tokens"][0], body, "application/x-ndjson"))
        count += 1
    return {"batches": count}


def exempt_ids(job: Job) -> Job:
    """H5: intervals with as many exempt ids as a message may have, always other ones."""
    return _messages(
        job,
        lambda turn: message(
            intervals=[
                interval(
                    prefix=f"p{turn % 16}",
                    begin=NOW + 40 * n,
                    end=NOW + 40 * n + 20,
                    skip=[f"{turn}-{n}-{k}" for k in range(312)],
                )
                for n in range(32)
            ]
        ),
    )


def intervals(job: Job) -> Job:
    """H6: 32 intervals over all live items, without effect, as often as the tokens of four devices allow."""
    return _messages(
        job,
        lambda turn: message(intervals=[interval(prefix="news", end=NOW - 1 + n / 10_000) for n in range(32)]),
    )


def reminders(job: Job) -> Job:
    """H6: 100 items with 16 reminders each that expire after the last one, as often as the tokens allow."""
    return _messages(
        job,
        lambda turn: message(
            {
                f"r{turn}-{n}": item("news", expires="+20", remind_at=[f"+{1 + at}" for at in range(16)])
                for n in range(100)
            }
        ),
    )


# --- helpers


def take_what_is_left() -> None:
    """Give this process the lowest priority: an attacker has another machine, and takes no CPU of the services."""
    if os.sched_getscheduler(0) == os.SCHED_RR:
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(os.sched_get_priority_min(os.SCHED_RR)))
    else:
        os.nice(19)


def _messages(job: Job, make: Callable[[int], Any]) -> Job:
    """Send messages of a device over a kept connection of each token, twice as fast as the rate allows."""
    links = [socket.create_connection(address(job["ingest"]), 5) for _ in job["tokens"]]
    statuses: dict[str, int] = {}
    for turn, _ in enumerate(_turns(job, 0.05 / len(links))):
        body = json.dumps(make(turn)).encode()
        which = turn % len(links)
        links[which].sendall(_post("/v1/users/mallory/messages", job["tokens"][which], body))
        status = _status(links[which])
        statuses[status] = statuses.get(status, 0) + 1
    return statuses


def _status(link: socket.socket) -> str:
    """Read one response, and return its status."""
    received = b""
    while b"\r\n\r\n" not in received:
        received += link.recv(65_536)
    head, _, body = received.partition(b"\r\n\r\n")
    length = int(head.lower().partition(b"content-length:")[2].split()[0])
    while len(body) < length:
        body += link.recv(65_536)
    return head[9:12].decode()


def _turns(job: Job, pause_s: float) -> Any:
    ends = time.monotonic() + job["seconds"]
    while time.monotonic() < ends:
        yield
        time.sleep(pause_s)


def _send(place: str, data: bytes) -> socket.socket:
    """Open a connection and send as much as the server accepts within a second."""
    opened = socket.create_connection(address(place), 5)
    opened.settimeout(1)
    with suppress(OSError):
        opened.sendall(data)
    return opened


def _post(path: str, token: str, body: bytes, kind: str = "application/json") -> bytes:
    head = f"POST {path} HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {token}\r\nContent-Type: {kind}\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


ATTACKS: dict[str, Callable[[Job], Job]] = {
    each.__name__: each
    for each in (pipeline, cookie, hello, refused_lines, exempt_ids, intervals, reminders, slow_loris)
}


if __name__ == "__main__":
    main()
