"""The weights of reads: how many small requests the work of a read is worth. Pure.

A unit is about 1 ms of Redis, or 2 ms of a service. The rate of requests takes the weight of a read before its work, so
a device cannot saturate Redis or a service with few, large reads.
"""

from __future__ import annotations

from typing import Final

# Measured: a state of 2,000 items takes Redis 3 ms; the past of 10,000 items takes Redis 15 ms and ingest 44 ms.
_STORED_PER_UNIT: Final = 500
# A template that loops over a body of 16 KiB takes 6 to 13 ms, and a short one 0.1 ms.
_RENDERED_PER_UNIT: Final = 20
_RENDERED_BYTES_PER_UNIT: Final = 4_096
# A copy of 1 MiB takes a gateway 20 ms to encode and to send. Redis takes 3 to 7 ms to read it, and ingest 5 to 10 ms.
_SENT_BYTES_PER_UNIT: Final = 131_072
# Redis takes 2.3 ms to read 10,000 hidings with their items, and a service 1 ms to search them.
_HIDINGS_PER_UNIT: Final = 2_000
_LISTED_PER_UNIT: Final = 50
# Forgetting a device reads and compares every live item in Redis: see test_forgetting_a_device_costs_redis_little.
_FORGOTTEN_PER_UNIT: Final = 200
# Items that the device dismissed are written again: 1 MiB takes Redis 9 ms, with the append-only file and a replica.
_FORGOTTEN_BYTES_PER_UNIT: Final = 65_536
_FORGOTTEN_DISMISSALS_PER_UNIT: Final = 2_500
# The search for the device that was offline longest reads all sessions of a user: 512 with long category filters take
# Redis 13 ms and a service 40 ms. See test_displacing_a_device_costs_redis_little.
_SESSIONS_PER_UNIT: Final = 8
# 64 registrations with long category filters take Redis 0.5 ms. A user with 4 units has 20 displacements a second.
_DISPLACEMENT_UNITS: Final = 4
# A change of quiet hours reads the deliveries of each item: 2,000 take Redis 27 ms and ingest 33 ms. Those that wait
# are decided again.
_DELIVERED_PER_UNIT: Final = 5
_DELIVERIES_PER_UNIT: Final = 500
PAST_NS_PER_BYTE: Final = 16
"""Charged for each byte read from the past: 2 ms (one unit) for 128 KiB. The size is known only after the read."""
EXAMINED_NS: Final = 4_000
"""Charged for each record that a sync examines, sent or not: one unit for 500.

With a category filter, or a cursor from before many removals, a small answer can need thousands.
"""
DEAD_LETTER_NS: Final = 2_000
"""Charged for each dead letter that a search or removal examines: one unit for 1,000, which take Redis 1 ms."""
COLLECT_NS_PER_US: Final = 2_000
"""Charged for each µs of a collection (``collect.lua``) before a read: 1 ms is one unit."""
COLLECT_US_PER_UNIT: Final = 5_000
"""CPU time of a collection for one unit of the weight of a message."""
HIDING_NS_PER_BYTE: Final = 32
"""Charged for each byte of hidings that a sync reads, and does not send.

The most, 1.4 MB for 10,000, is 22 units. Redis takes 2.3 ms for them, and the 64 devices of a user share them.
"""
# Charged for each µs of a sync with a category filter. With 2,000, one token could use 5.3 to 5.7 % of a core of Redis:
# the other commands of its requests are not charged.
_FILTER_NS_PER_US: Final = 3_000
# A longer sync is charged for the square of its time, because all other commands wait for it. With 3,000 ns a µs alone,
# one token could make 3.3 reads a second of 8 ms each, which doubled the p99 of others.
_LONG_SYNC_US: Final = 2_000
PREVIEW_WEIGHT: Final = 9
"""The weight of a preview beyond 1: its schema and templates may take half a second in all."""


def stored_weight(items: int, size_bytes: int = 0, dismissals: int = 0) -> int:
    """Return the weight of a read that goes through so many stored items, bytes of JSON and hidings, beyond 1."""
    by_size = size_bytes // _SENT_BYTES_PER_UNIT + dismissals // _HIDINGS_PER_UNIT
    return items // _STORED_PER_UNIT + by_size


def most_removed(live: int) -> int:
    """Return how many items that left a delta reads at most. If more left, the full copy is shorter."""
    return 2 * live + 64


def sync_charge_ns(records: int, cpu_us: int) -> int:
    """Return the charge for a sync, in ns.

    Args:
        records: Records that it examined.
        cpu_us: Its CPU time in Redis if the view has a category filter, else 0. The charge for a record covers 2 µs.
            Above ``_LONG_SYNC_US``, the charge grows with the square of the time.
    """
    by_records = EXAMINED_NS * records
    filter_ns = _FILTER_NS_PER_US * max(0, cpu_us - by_records // 2_000)
    return by_records + filter_ns * max(_LONG_SYNC_US, cpu_us) // _LONG_SYNC_US


def render_weight(items: int, size_bytes: int) -> int:
    """Return the weight of rendering so many items with so many bytes of JSON, beyond 1."""
    return items // _RENDERED_PER_UNIT + size_bytes // _RENDERED_BYTES_PER_UNIT


def sync_weight(items: int, size_bytes: int, *, is_rendered: bool) -> int:
    """Return the weight of a sync object with so many items and bytes, beyond 1."""
    rendered = render_weight(items, size_bytes) if is_rendered else 0
    return stored_weight(items, size_bytes) + rendered


def forget_weight(live_items: int, live_bytes: int = 0, dismissals: int = 0) -> int:
    """Return the weight of forgetting a device, beyond 1.

    Its user has so many live items with so many bytes of JSON, and so many dismissals by single devices.
    """
    by_size = live_bytes // _FORGOTTEN_BYTES_PER_UNIT + dismissals // _FORGOTTEN_DISMISSALS_PER_UNIT
    return live_items // _FORGOTTEN_PER_UNIT + by_size


def displacement_weight(live_items: int, live_bytes: int, dismissals: int, sessions: int) -> int:
    """Return the weight of removing a device to make room for another one, beyond 1.

    Its user has so many sessions; the rest as in ``forget_weight``.
    """
    search = _DISPLACEMENT_UNITS + sessions // _SESSIONS_PER_UNIT
    return search + forget_weight(live_items, live_bytes, dismissals)


def quiet_hours_weight(delivered_items: int) -> int:
    """Return the weight of changing the quiet hours of a user with deliveries of so many items, beyond 1."""
    return delivered_items // _DELIVERED_PER_UNIT


def deliveries_weight(deliveries: int) -> int:
    """Return the weight, beyond 1, of a search for waiting deliveries among so many."""
    return deliveries // _DELIVERIES_PER_UNIT


def listing_weight(entries: int) -> int:
    """Return the weight of a page with up to so many entries of any other kind, beyond 1."""
    return entries // _LISTED_PER_UNIT
