"""The weight of a message: how many ordinary messages its work in Redis and in the scheduler is worth. Pure.

Rate limits take the weight of a message, so a device cannot saturate the store with few, expensive messages.
"""

from __future__ import annotations

from typing import Final

from gregor.core.categories.policy import NO_POLICIES, CategoryPolicies

from .model import Message, Update

# `python -m tests.bench cost` measures the worst messages. None costs Redis more than 5 ms for each unit of weight,
# unless it removes items; each of these weighed 0.1 when it was created. One item costs about 0.05 ms, and each
# reminder is one more commit. Intervals scan the live items: 2,000 of them cost 2 to 8 ms. 100 ids cost up to 1.5 ms.
_ITEMS_PER_UNIT: Final = 10
_INTERVALS_PER_UNIT: Final = 8
_IDS_PER_UNIT: Final = 100
_BYTES_PER_UNIT: Final = 8_192
"""A service needs up to 0.1 ms to read each KiB of a text that it refuses, so about 1 ms for each unit."""
# 1 MiB takes Redis up to 7 ms to read, and a service up to 8 ms to read and decode.
_SENDERS_PER_UNIT: Final = 300
_STORED_BYTES_PER_UNIT: Final = 262_144
EXTRA_BYTES_PER_UNIT: Final = 65_536
"""Written bytes for one unit: a commit writes a changed record as a whole. 64 KiB take Redis 0.6 ms.

The append-only file gets as many bytes."""
REDIS_UNITS: Final = 20
"""Units of ``redis_units`` for one unit of weight: one commit takes 0.15 ms."""
REDIS_UNIT_NS: Final = 250_000
"""Time of Redis for each unit of ``redis_units``."""


def text_weight(size_bytes: int) -> int:
    """Return the weight of reading a message of a device: 1 below 8 KiB, 33 at 256 KiB."""
    return 1 + size_bytes // _BYTES_PER_UNIT


def message_weight(message: Message, categories: CategoryPolicies = NO_POLICIES) -> int:
    """Return the weight: 1 for an ordinary message, more for many items, reminders, intervals, ids or skipped ids.

    ``categories``: their default reminders count like those that the message names.
    """
    content = message.content
    if not isinstance(content, Update):
        return 1
    is_single = len(content.create) == 1 and not content.intervals and not content.ids
    if is_single and not content.create[0].remind_at and not categories:
        return 1
    work = sum(1 + len(item.remind_at or categories.resolve(item.category).remind_after_us) for item in content.create)
    ids = len(content.ids) + sum(len(interval.skip) for interval in content.intervals)
    scans = 1 + len(content.intervals) // _INTERVALS_PER_UNIT if content.intervals else 0
    return 1 + work // _ITEMS_PER_UNIT + scans + ids // _IDS_PER_UNIT


def senders_weight(messages: int, size_bytes: int) -> int:
    """Return the weight of looking at the senders of so many stored delayed messages: 8 for 1,000 of 1 MiB."""
    return 1 + messages // _SENDERS_PER_UNIT + size_bytes // _STORED_BYTES_PER_UNIT


def redis_units(message: Message) -> int:
    """Return the most time that Redis needs for a message, in units of 0.25 ms. It is a finer ``message_weight``.

    The smallest messages have the weight 1, but need a twentieth of its time. Delayed messages are paced by these
    units, because a thousand small ones of a user may be due at one moment.
    """
    weight = message_weight(message)
    if weight > 1:
        return REDIS_UNITS * weight
    content = message.content
    if not isinstance(content, Update):
        return 1
    work = sum(1 + len(item.remind_at) for item in content.create)
    # 0.5 ms for each item. Ids that 255 devices have dismissed take 0.12 ms each.
    return max(1, min(REDIS_UNITS, 2 * work - 1 + len(content.ids) // 2))
