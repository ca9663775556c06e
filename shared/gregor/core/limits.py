"""The bounds of semantics.md, "Bounds": pure numbers that the core checks against; the settings fill them.

Every integer carries its unit in its name, or counts things. What is over a bound is a clear error, and nothing is half
applied.
"""

from dataclasses import dataclass

SECOND_US = 1_000_000
HOUR_US = 3_600 * SECOND_US
DAY_US = 24 * HOUR_US
KIB = 1_024
MIB = 1_024 * KIB


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of one deployment; the defaults are those of semantics.md."""

    message_bytes: int = 256 * KIB
    """JSON of one message; over it 413 `message_too_large`."""
    body_bytes: int = 16 * KIB
    """JSON of one item's body; over it 422 `body_too_large`."""
    creations: int = 100
    """Creations in one message; over it 422 `too_many`."""
    ids: int = 1_000
    """Ids in one dismissal; over it 422 `too_many`."""
    intervals: int = 32
    """Intervals in one dismissal; over it 422 `too_many`."""
    skip: int = 1_000
    """Ids in the `skip` of one interval; over it 422 `too_many`."""
    reminders: int = 16
    """Entries in `remind_at` of one item; over it 422 `too_many`."""
    nesting: int = 64
    """Levels of nesting in a JSON text; over it 400 `malformed_json`."""
    live: int = 2_000
    """Live items of a user, all devices; over it 409 `state_full`."""
    live_bytes: int = MIB
    """JSON of a user's live items; over it 409 `state_full`."""
    batch: int = 1_000
    """Messages in one batch call; over it 413 `batch_too_large`."""
    batch_bytes: int = 8 * MIB
    """JSON of one batch call; over it 413 `batch_too_large`."""
    batch_fanout: int = 10_000
    """Lines × uids of one batch call; over it 413 `batch_too_large`."""
    devices: int = 64
    """Devices of a user; over it the one longest offline goes, or 409 `too_many_devices`."""
    connections: int = 8
    """Connections of a device; over it the oldest is closed."""
    tombstones: int = 10_000
    """Remembered dismissals of unknown ids of a user; over it 409 `too_many_dismissals`."""
    spans: int = 1_000
    """Remembered intervals of a user; over it 409 `too_many_dismissals`."""
    spans_per_prefix: int = 64
    """Remembered intervals of a user for one category or prefix; over it 409 `too_many_dismissals`."""
    delayed: int = 1_000
    """Delayed messages of a user that wait; over it 409 `state_full`."""
    history: int = 10_000
    """Entries of a user's history; over it the oldest go and the horizon moves up."""
    history_bodies: int = 200
    """Newest gone items of a user that keep their body."""
    history_body_age_us: int = 7 * DAY_US
    """How long a gone item keeps its body."""
    external_age_us: int = DAY_US
    """How long an external message is kept."""
    external_count: int = 100
    """External messages kept for a user; over it the oldest go (`external_gap`)."""
    external_bytes: int = 256 * KIB
    """JSON of the external messages kept for a user; over it the oldest go (`external_gap`)."""
    future_us: int = HOUR_US
    """How far ahead `created` and `end` may be; over it 422 `created_in_future` or `end_in_future`."""
    retention_us: int = 30 * DAY_US
    """How long dismissals are remembered and history is kept."""
    device_rate: float = 10.0
    """Messages a second of one device token; over it 429 `rate_limited`."""
    device_burst: int = 50
    """Messages that a device token may send at once."""
    resync_rate: float = 1.0
    """`resync` and `history` calls a second of one device; over it 429 `rate_limited`."""
