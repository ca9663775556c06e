"""Limits of a deployment (semantics.md, "Bounds"): numbers that core compares with; the settings provide them.

Each integer is a count, or has its unit in its name. If a limit is exceeded, the request fails as a whole.
"""

from dataclasses import dataclass
from typing import Final

SECOND_US = 1_000_000
CLOCK_LEEWAY_US: Final = 30 * SECOND_US
"""Tolerated difference between the clocks of a login service and ours."""
HOUR_US = 3_600 * SECOND_US
DAY_US = 24 * HOUR_US
KIB = 1_024
MIB = 1_024 * KIB

MAX_HIDINGS = 255
"""Devices that may have dismissed one `"*"` item, or one unknown id; else 409 `too_many_dismissals`.

The format of the store bounds it, so it is not a setting: names of 128 characters then fill 36 KB of at most 64 KB.
"""
FILTER_UNIT_BYTES = 512
"""The dismissal of an unknown id stores the category filter of its sender. Each such part of it counts as one more
dismissal by a single device. The scripts of the store have the same number."""
AGENDA_ENTRIES_OF_AN_ITEM = 10
"""Agenda entries for each item of ``Limits.live``. If a user has this many, no further aggregation window opens.

A live item has at most five entries: expiry, reminder, push, mail and window. The scripts of the store have the same
number.
"""


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits of one deployment; the defaults are those of semantics.md."""

    message_bytes: int = 256 * KIB
    """JSON of one message; else 413 `message_too_large`."""
    body_bytes: int = 16 * KIB
    """JSON of one item's body; else 422 `body_too_large`."""
    creations: int = 100
    """Creations in one message; else 422 `too_many`."""
    ids: int = 1_000
    """Ids in one dismissal; else 422 `too_many`."""
    intervals: int = 32
    """Intervals in one dismissal; else 422 `too_many`."""
    skip: int = 1_000
    """Ids in the `skip` of one interval; else 422 `too_many`."""
    reminders: int = 16
    """Entries in `remind_at` of one item; else 422 `too_many`."""
    nesting: int = 64
    """Levels of nesting in a JSON text; else 400 `malformed_json`."""
    live: int = 2_000
    """Live items of a user, all devices; else 409 `state_full`."""
    live_bytes: int = MIB
    """JSON of a user's live items; else 409 `state_full`."""
    batch: int = 1_000
    """Messages in one batch request; else 413 `batch_too_large`."""
    batch_bytes: int = 8 * MIB
    """JSON of one batch request; else 413 `batch_too_large`."""
    batch_fanout: int = 10_000
    """Lines × uids of one batch request; else 413 `batch_too_large`."""
    device_batch: int = 100
    """Messages in one batch request of a device token; else 413 `batch_too_large`."""
    device_batch_bytes: int = MIB
    """JSON of one batch request of a device token; else 413 `batch_too_large`."""
    devices: int = 64
    """Devices of a user; one more evicts the device that is offline for longest, or fails with 409 `too_many_devices`.
    """
    connections: int = 8
    """Connections of a device; one more closes the oldest."""
    tickets: int = 32
    """Unused tickets of a device, or of a service key that observes a user; one more invalidates the oldest."""
    ticket_bytes: int = 256 * KIB
    """Bytes of a user's unused tickets as they are stored; a ticket above them invalidates the oldest."""
    tombstones: int = 10_000
    """Stored dismissals of unknown ids of a user; else 409 `too_many_dismissals`."""
    device_dismissals: int = 10_000
    """Dismissals by single devices that are stored for a user; else 409 `too_many_dismissals`.

    Those of live `"*"` items, those of an unknown id after its first one, and the `FILTER_UNIT_BYTES` of unknown ids.
    """
    spans: int = 1_000
    """Stored intervals of a user; else 409 `too_many_dismissals`."""
    spans_per_prefix: int = 64
    """Stored intervals of a user for one category or prefix; else 409 `too_many_dismissals`."""
    skipped: int = 10_000
    """Ids in the `skip` of all intervals of one message (else 422 `too_many`), and of all stored intervals of a user
    (else 409 `too_many_dismissals`).
    """
    message_ids: int = 10_000
    """Remembered message ids of a user; else 409 `too_many_dismissals`."""
    delayed: int = 1_000
    """Delayed messages of a user; else 409 `state_full`."""
    delayed_bytes: int = MIB
    """Bytes of a user's delayed messages as they are stored; else 409 `state_full`."""
    delay_us: int = 30 * DAY_US
    """Time by which a message can be delayed; else 422 `time_out_of_range`."""
    history: int = 10_000
    """Entries of a user's history; beyond it the oldest are deleted, and the horizon moves up."""
    history_bodies: int = 200
    """Newest gone items of a user that keep their body."""
    history_body_age_us: int = 7 * DAY_US
    """Time for which a gone item keeps its body."""
    delivered: int = 10_000
    """Items of a user whose deliveries are kept; beyond it those of the oldest gone items are deleted. A webhook event
    that waits behind half as many newer items with events becomes a dead letter.
    """
    external_age_us: int = DAY_US
    """Time for which an external message is kept."""
    external_count: int = 100
    """External messages kept for a user; beyond it the oldest are deleted (`external_gap`)."""
    external_bytes: int = 256 * KIB
    """JSON of the external messages kept for a user; beyond it the oldest are deleted (`external_gap`)."""
    future_us: int = HOUR_US
    """Time by which `created` and `end` may be ahead of the clock; else 422 `created_in_future` or `end_in_future`."""
    retention_us: int = 30 * DAY_US
    """Time for which dismissals are remembered and history is kept."""
    device_rate: float = 10.0
    """Messages a second of one device token; else 429 `rate_limited`."""
    device_burst: int = 50
    """Messages that a device token may send at once."""
    user_rate: float = 40.0
    """Messages a second of all device tokens of one user; else 429 `rate_limited`."""
    user_burst: int = 200
    """Messages that all device tokens of one user may send at once."""
    device_request_rate: float = 50.0
    """Requests of one device token a second, apart from messages; else 429 `rate_limited`. A large read counts as
    several (`core.items.read_cost`).
    """
    device_request_burst: int = 500
    """Such requests that a device token may send at once."""
    user_request_rate: float = 100.0
    """Such requests a second of all device tokens of one user; else 429 `rate_limited`."""
    user_request_burst: int = 1_000
    """Such requests that all device tokens of one user may send at once."""
    resync_rate: float = 1.0
    """`resync` and `history` requests a second of one device; else 429 `rate_limited`."""

    @property
    def agenda(self) -> int:
        """Agenda entries of a user above which no further aggregation window opens."""
        return AGENDA_ENTRIES_OF_AN_ITEM * self.live

    @property
    def delivered_waiting(self) -> int:
        """Newer items with webhook events behind which a waiting event becomes a dead letter: half of `delivered`.

        The other half is for these dead letters.
        """
        return max(1, self.delivered // 2)

    @property
    def delivered_step(self) -> int:
        """New items with deliveries after which the bounds are applied again: a twentieth of `delivered`."""
        return -(-self.delivered // 20)
