"""The listener of the timer benchmark: receives all reminders as gateways do, over one raw connection."""

from __future__ import annotations

import json
import socket
import sys
import time
from collections import Counter

import hiredis

from gregor.core.items.announcement import AnnouncementKind, decode_announcement
from gregor.store.redis.keys import Keys
from tests.bench.sockets import address, resp

AT_ONCE = 2_000
LEASE_S = 10.0
"""A timer later than this waited for the lease of the killed scheduler."""


def main() -> None:
    """Read the job from the only argument; print a line when all channels are subscribed, then the result."""
    job = json.loads(sys.argv[1])
    keys = Keys("gregor")
    reader = hiredis.Reader()
    with socket.create_connection(address(job["url"])) as connection:
        for start in range(0, job["users"], AT_ONCE):
            uids = range(start, min(job["users"], start + AT_ONCE))
            for number in uids:
                connection.sendall(resp("SSUBSCRIBE", keys.of_user(f"u{number}").channel))
            confirmed = 0
            while confirmed < len(uids):
                reader.feed(connection.recv(1_048_576))
                while (reply := reader.gets()) is not False:
                    confirmed += reply[0] == b"ssubscribe"
        print("ready", flush=True)
        fired, late_s = hear(connection, reader, job["due"], job["at_least_until"], job["until"])
    result = {
        "late_s": late_s,
        "missing": job["due"] - len(fired),
        "twice": sum(count > 1 for count in fired.values()),
        "after_kill": sum(late > LEASE_S for late in late_s),
    }
    print(json.dumps(result))


def hear(
    connection: socket.socket, reader: hiredis.Reader, due: int, at_least_until: float, until: float
) -> tuple[Counter[str], list[float]]:
    """Record which timers fired, how often and how late, until all have fired and some time for doubles has passed.

    ``at_least_until``: when the lease of the killed scheduler has passed, and with it any repeat.
    """
    fired: Counter[str] = Counter()
    late_s: list[float] = []
    while time.time() < until:
        connection.settimeout(max(0.01, until - time.time()))
        try:
            reader.feed(connection.recv(1_048_576))
        except TimeoutError:
            break
        now = time.time()
        while (reply := reader.gets()) is not False:
            payload = reply[2]
            if reply[0] != b"smessage" or payload[9:10] != AnnouncementKind.REMIND.value:
                continue
            announcement = decode_announcement(payload)
            fired[announcement.entries[0].id] += 1
            late_s.append(now - announcement.remind_at_us / 1e6)
        if len(fired) == due:
            until = min(until, max(at_least_until, now + 3))
    return fired, late_s


if __name__ == "__main__":
    main()
