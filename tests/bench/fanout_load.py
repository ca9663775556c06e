"""The load of the fan-out benchmark: all devices and the publisher, in one loop that only counts bytes.

Announcements are built before the clock starts, chained like those of the store's script, and published directly to the
channels of the users, which measures the gateway alone. A closed loop keeps a fixed number of deliveries in flight.
"""

from __future__ import annotations

import json
import select
import socket
import sys
import time
from pathlib import Path
from typing import Any

from gregor.core.items import digest as digests
from gregor.core.items.announcement import Announcement, AnnouncementEntry, AnnouncementKind
from gregor.core.items.codec import pack_item
from gregor.core.items.sync import View
from tests.bench.commit import planned
from tests.bench.sockets import address, body_of, open_device, resp

DEVICES_A_USER = 3
HEAD_BYTES = 4
"""Header size of a WebSocket frame of 126 to 65,535 bytes."""
SETTLED_S = 2.0


def announcements(user: dict[str, Any], epoch: bytes, seq: int, digest: bytes, count: int) -> list[tuple[bytes, int]]:
    """Return, for each creation, the command that publishes it and the bytes that the user's devices then receive."""
    made = []
    sent = {"body": body_of(190), "category": "user.joined", "times": {"created": 1457056447}}
    for number in range(seq + 1, seq + 1 + count):
        id_ = f"{number:016x}"
        (item,) = planned({"create": {id_: sent}}).creations
        after = digests.add(digest, item.leaf)
        entry = AnnouncementEntry(id_, item.category, pack_item(item))
        made_one = Announcement(AnnouncementKind.UPDATE, epoch, number, digest[:8], after[:8], entries=(entry,))
        frame = made_one.frame(View("d"))
        command = resp("SPUBLISH", user["channel"], made_one.encode())
        made.append((command, DEVICES_A_USER * (len(frame or b"") + HEAD_BYTES)))
        digest = after
    return made


def plain(user: dict[str, Any], count: int) -> list[tuple[bytes, int]]:
    """Return the same for raw subscribers, with payloads of the size of a device's frame."""
    payload = b"x" * 300
    got = len(resp("smessage", user["channel"], payload)) + 0
    return [(resp("SPUBLISH", user["channel"], payload), DEVICES_A_USER * got)] * count


def subscribers(redis: str, users: list[dict[str, Any]]) -> list[socket.socket]:
    """Open three raw connections for each user, subscribed to the user's channel."""
    opened = []
    for user in users:
        for _ in range(DEVICES_A_USER):
            connection = socket.create_connection(address(redis))
            connection.sendall(resp("SSUBSCRIBE", user["channel"]))
            connection.recv(4_096)
            opened.append(connection)
    return opened


def devices(job: dict[str, Any]) -> tuple[list[socket.socket], list[list[tuple[bytes, int]]]]:
    """Connect devices to a gateway with their tokens; return them and the announcements for each user."""
    opened, made = [], []
    for user in job["users"]:
        for token in user["tokens"]:
            device, sync = open_device(job["gateway"], token)
            opened.append(device)
        epoch = bytes.fromhex(sync["cursor"][:6])
        made.append(announcements(user, epoch, sync["seq"], bytes.fromhex(sync["digest"]), job["messages_a_user"]))
    return opened, made


def drive(job: dict[str, Any], opened: list[socket.socket], queue: list[tuple[bytes, int]]) -> dict[str, Any]:
    """Publish the queue with a fixed number of deliveries in flight; return their number and the time."""
    publisher = socket.create_connection(address(job["redis"]))
    publisher.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    poll = select.epoll()
    sockets = {connection.fileno(): connection for connection in [*opened, publisher]}
    for connection in sockets.values():
        connection.setblocking(False)
        poll.register(connection, select.EPOLLIN)
    buffer = bytearray(1 << 18)
    own = publisher.fileno()
    expected = received = published = 0
    average = sum(size for _, size in queue[:1_000]) / len(queue[:1_000])
    window = job["window"] * average / DEVICES_A_USER
    total = sum(size for _, size in queue)
    started, deadline = time.perf_counter(), time.perf_counter() + job["seconds"] + 20
    publish_until = started + job["seconds"]
    while received < total and time.perf_counter() < deadline:
        burst = []
        while published < len(queue) and expected - received < window and time.perf_counter() < publish_until:
            command, size = queue[published]
            burst.append(command)
            expected += size
            published += 1
        if burst:
            publisher.setblocking(True)
            publisher.sendall(b"".join(burst))
            publisher.setblocking(False)
        elif received >= expected:
            break
        for number, _ in poll.poll(0.5):
            got = sockets[number].recv_into(buffer)
            if number != own:
                received += got
    return {
        "seconds": time.perf_counter() - started,
        "deliveries": published * DEVICES_A_USER * received / expected,
        "arrived": received / expected,
    }


def main() -> None:
    job = json.load(sys.stdin)
    if job["kind"] == "raw":
        opened = subscribers(job["redis"], job["users"])
        made = [plain(user, job["messages_a_user"]) for user in job["users"]]
    else:
        opened, made = devices(job)
    # Round robin over the users: the next message of a user goes out after one of every other user.
    queue = [one for turn in zip(*made, strict=True) for one in turn]
    # The reconciler compares with the store soon after a connect; it must find the commits there.
    time.sleep(SETTLED_S)
    Path(job["ready"]).touch()
    print(json.dumps(drive(job, opened, queue)))


if __name__ == "__main__":
    main()
