"""The messages of one device that cost Redis the most for their weight, against a user at all limits."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from gregor.core.errors import Problem
from gregor.core.ids import MAX_DOTTED_LENGTH
from gregor.core.limits import Limits
from gregor.core.messages.cost import REDIS_UNITS, message_weight, redis_units
from gregor.core.messages.model import Sender
from gregor.core.messages.parse import parse_message
from gregor.store.redis.store import RedisStore
from tests.bench.sockets import forget_durations, longest_ms, redis_cpu_s
from tests.support.builders import BY_BACKEND, NOW, NOW_US, Document, interval, item, message, planned

UID: Final = "alice"
PHONE: Final = Sender("phone")
LIVE: Final = Limits().live
BODY: Final = "x" * 300
Sent = tuple[Document, Sender]
Scene = Callable[[], tuple[list[Sent], list[Document]]]
"""Returns the messages that prepare the user, and the messages of the phone to measure."""


@dataclass(frozen=True, slots=True)
class Cost:
    """CPU milliseconds of Redis for one message, its weight and its `redis_units`. `removed`: items that left a view.

    `weight` and `units` include the extra weight of the receipt, which is charged after the commit.
    `longest_ms`: the longest script of the message, by the clock; other users wait for it.
    """

    scene: str
    ms: float
    weight: int
    units: int
    removed: int
    longest_ms: float

    @property
    def ms_per_weight(self) -> float:
        """CPU milliseconds for one unit of the rate limit."""
        return self.ms / self.weight


# --- scenes


def _live(category: Callable[[int], str], for_device: str | None) -> list[Sent]:
    new = {f"i{n:04}": item(category(n), created=NOW, for_device=for_device, body=BODY) for n in range(LIVE)}
    ids = list(new)
    return [(message({each: new[each] for each in ids[at : at + 100]}), BY_BACKEND) for at in range(0, LIVE, 100)]


def _news(_: int) -> str:
    return "news.a"


def _deep(n: int) -> str:
    return ".".join([*["a"] * 60, f"{n:x}"])


def _long(n: int) -> str:
    return f"{n:04}".ljust(MAX_DOTTED_LENGTH, "x")


def _wide(n: int) -> str:
    return f"c{n:04}" + ".a" * 61


def _apart(count: int, prefix: Callable[[int], str] = lambda _: "news") -> Document:
    return message(intervals=[interval(prefix=prefix(n), end=NOW - 1 + n / 10_000) for n in range(count)])


def _short_and_long(count: int) -> Document:
    """Return intervals in the past of all items: one has the longest prefix, and the others have none."""
    intervals = [interval(prefix="", begin=NOW - 900 + 10 * n, end=NOW - 895 + 10 * n) for n in range(count - 1)]
    return message(intervals=[*intervals, interval(prefix="z" * MAX_DOTTED_LENGTH, end=NOW - 5)])


def _lengths(count: int) -> Document:
    """Return intervals with prefixes of many lengths; categories with as many segments match only the last one."""
    prefixes = ["z0000" + ".a" * (61 - n) for n in range(count - 1)] + [""]
    return message(intervals=[interval(prefix=each, begin=NOW - 50, end=NOW - 40) for each in prefixes])


def _spans() -> list[Sent]:
    """Return messages that fill the remembered intervals: 60 for each of 16 nested prefixes."""
    starts = [NOW - 10_000 + 10 * n for n in range(60)]
    return [
        (message(intervals=[interval(prefix=_nested(depth), begin=at, end=at + 5) for at in starts[half::2]]), PHONE)
        for depth in range(16)
        for half in (0, 1)
    ]


def _nested(depth: int) -> str:
    return ".".join(["a"] * (depth + 1))


def _skips(first: int, count: int) -> list[str]:
    return [f"s{n:04}" for n in range(first, first + count)]


def _dismiss_all() -> Document:
    return message(intervals=[interval(prefix="")])


def _tombs(batch: int) -> Document:
    return message(ids=[f"t{n:04}" for n in range(1_000 * batch, 1_000 * batch + 1_000)])


def _all_tombs() -> list[Sent]:
    return [(_tombs(batch), PHONE) for batch in range(9)] + [(message(ids=[f"t9{n:03}" for n in range(900)]), PHONE)]


def _new(name: str, **fields: object) -> Document:
    return message({f"{name}-{n}": item(**{"category": "news.a", "created": NOW, **fields}) for n in range(100)})  # type: ignore[arg-type]


def _with_intervals(document: Document) -> Document:
    intervals = [interval(prefix="", begin=n) for n in range(32)]
    return message(document["body"]["create"], intervals=intervals)


SCENES: Final[dict[str, Scene]] = {
    "32 intervals, items of another device": lambda: (_live(_news, "tablet"), [_apart(32)] * 5),
    "1 interval, items of another device": lambda: (_live(_news, "tablet"), [_apart(1)] * 5),
    "32 intervals, deep categories": lambda: (_live(_deep, "tablet"), [_apart(32, _nested)] * 5),
    "1 interval, deep categories": lambda: (
        _live(_deep, "tablet"),
        [message(intervals=[interval(category="other", end=NOW)])] * 5,
    ),
    "7 intervals, short and long prefixes": lambda: (_live(_long, "tablet"), [_short_and_long(7)] * 5),
    "32 intervals, short and long prefixes": lambda: (_live(_long, "tablet"), [_short_and_long(32)] * 5),
    "32 intervals, prefixes of 32 lengths": lambda: (_live(_wide, "tablet"), [_lengths(32)] * 5),
    "dismiss all again, items hidden": lambda: (
        [*_live(_news, "*"), (_dismiss_all(), PHONE)],
        [_dismiss_all()] * 5,
    ),
    "32 intervals again, items hidden": lambda: (
        [*_live(_news, "*"), (_dismiss_all(), PHONE)],
        [message(intervals=[interval(prefix="", begin=n / 1_000) for n in range(32)])] * 5,
    ),
    "1,000 unknown ids": lambda: ([], [_tombs(n) for n in range(5)]),
    "1,000 unknown ids again": lambda: ([(_tombs(0), PHONE)], [_tombs(0)] * 5),
    "99 of 9,900 unknown ids again": lambda: (
        _all_tombs(),
        [message(ids=[f"t{n:04}" for n in range(99)])] * 5,
    ),
    "1 of 9,900 unknown ids again": lambda: (_all_tombs(), [message(ids=["t0000"])] * 5),
    "100 creations": lambda: ([], [_new(f"n{n}", body=BODY) for n in range(5)]),
    "100 creations, 16 reminders each": lambda: (
        [],
        [_new(f"n{n}", expires="+5000", remind_at=[f"+{1 + at}" for at in range(16)]) for n in range(5)],
    ),
    "100 creations, 960 remembered intervals": lambda: (
        _spans(),
        [_new(f"n{n}", category=_deep(n), created=NOW - 20_000) for n in range(5)],
    ),
    "32 intervals into 960 remembered ones": lambda: (
        _spans(),
        [
            message(
                intervals=[
                    interval(prefix=_nested(n % 16), begin=NOW - 10_000 + 10 * n, end=NOW - 9_994 + 10 * n + more)
                    for n in range(32)
                ]
            )
            for more in range(4)
        ],
    ),
    "32 intervals, nested exempt ids": lambda: (
        [
            (
                message(
                    intervals=[
                        interval(prefix="a", begin=NOW - 20_000, end=NOW + n, skip=[*_skips(0, 150), f"x{n}"])
                        for n in range(first, first + 30)
                    ]
                ),
                PHONE,
            )
            for first in (0, 30)
        ],
        [
            message(
                intervals=[
                    interval(prefix="a", begin=NOW - 10_000 + 10 * n, end=NOW - 9_995 + 10 * n, skip=_skips(0, 300))
                    for n in range(32)
                ]
            )
        ]
        * 3,
    ),
    "100 creations, 10,000 exempt ids": lambda: (
        [
            (
                message(
                    intervals=[
                        interval(prefix="a", begin=NOW - 20_000, end=NOW + 1 + n, skip=_skips(0, 1_000))
                        for n in range(first, first + 5)
                    ]
                ),
                PHONE,
            )
            for first in (0, 5)
        ],
        [_new(f"n{n}", category="a.b", created=NOW - 10_000) for n in range(4)],
    ),
    "100 creations sent again, 32 intervals": lambda: (
        [(_new("n", category=_deep(0)), PHONE)],
        [_with_intervals(_new("n", category=_deep(0)))] * 4,
    ),
    "1,000 ids, all live": lambda: (
        _live(_news, None),
        [message(ids=[f"i{n:04}" for n in range(1_000)])],
    ),
    "dismiss all, 2,000 items": lambda: (_live(_news, None), [_dismiss_all()]),
    "dismiss all, 2,000 items of all devices": lambda: (_live(_news, "*"), [_dismiss_all()]),
    "1,000 ids, items that other devices hid": lambda: (
        [*_live(_news, "*"), *_by_devices(4, _dismiss_all)],
        [message(ids=[f"i{n:04}" for n in range(first, first + 1_000)]) for first in (0, 1_000)],
    ),
    "39 unknown ids, dismissed by 255 devices": lambda: (
        _by_devices(255, lambda: message(ids=[f"t{n}" for n in range(39)])),
        [message(ids=[f"t{n}" for n in range(39)])] * 4,
    ),
    "39 items that 254 devices hid": lambda: (
        [
            (_new("n", for_device="*"), BY_BACKEND),
            *_by_devices(254, lambda: message(ids=[f"n-{n}" for n in range(39)])),
        ],
        [message(ids=[f"n-{n}" for n in range(39)])] * 2,
    ),
    "100 creations that 64 devices hide": lambda: (_hiding(64), [_soon_over(n, 100) for n in range(4)]),
    "39 creations that 255 devices hide": lambda: (_hiding(255), [_soon_over(n, 39) for n in range(4)]),
    "dismiss all, 2,000 items that other devices hid": lambda: (
        [*_live(_news, "*"), *_by_devices(5, _dismiss_all)],
        [_dismiss_all()],
    ),
    "random messages": lambda: (_live(lambda n: _nested(n % 40), "*"), list(_random_messages(40))),
}
"""The worst that reading the script and a random search found."""


def _by_devices(count: int, document: Callable[[], Document]) -> list[Sent]:
    """Return the same message of many devices with long names."""
    return [(document(), Sender(f"{n:03}-{'x' * 124}")) for n in range(count)]


def _hiding(count: int) -> list[Sent]:
    """Return remembered intervals of many devices, which hide each item at its creation."""
    return [
        (message(intervals=[interval(prefix=_nested(n // 64), end=NOW + 50)]), Sender(f"{n:03}-{'x' * 124}"))
        for n in range(count)
    ]


def _soon_over(number: int, count: int) -> Document:
    """Return creations that expire before the next message, which pays for that."""
    new = (f"n{number}-{n}" for n in range(count))
    expires = NOW + 0.000_001 * (number + 1)
    return message({each: item(_nested(4), created=NOW, expires=expires, for_device="*") for each in new})


def _random_messages(count: int) -> Iterator[Document]:
    """Yield random mixtures of everything that costs, always the same ones."""
    chance = random.Random(9)
    for number in range(count):
        intervals = [
            interval(
                prefix=_nested(chance.randrange(40)),
                begin=NOW - chance.randrange(20_000),
                end=NOW - 1 + chance.random(),
                skip=_skips(chance.randrange(500), chance.choice((0, 0, 0, 30))),
            )
            for _ in range(chance.choice((0, 1, 8, 32)))
        ]
        creations = {
            f"r{number}-{n}": item(
                _nested(chance.randrange(40)), created=NOW - chance.randrange(30_000), expires="+90000"
            )
            for n in range(chance.choice((0, 1, 20)))
        }
        ids = [f"t{chance.randrange(5_000)}" for _ in range(chance.choice((0, 1, 300)))]
        if intervals or creations or ids:
            yield message(creations, ids=dict.fromkeys(ids), intervals=intervals)


# --- measuring


async def measure_scene(name: str, store: RedisStore, url: str) -> list[Cost]:
    """Prepare the user of a scene, and measure each of its messages. A message over a bound costs, too."""
    prepare, attack = SCENES[name]()
    for document, sender in prepare:
        await store.users.commit(UID, planned(document, sender))
    found = []
    for number, document in enumerate(attack):
        commit = planned(document, PHONE, NOW_US + number)
        forget_durations(url)
        before_s, removed = redis_cpu_s(url), 0
        try:
            receipt = await store.users.commit(UID, commit)
            removed, extra_weight = len(receipt.dismissed), receipt.extra_weight
        except Problem as problem:  # over a bound: refused as a whole, after the work
            extra_weight = problem.extra_weight
        ms = 1_000 * (redis_cpu_s(url) - before_s)
        parsed = parse_message(document, Limits())
        weight, units = message_weight(parsed) + extra_weight, redis_units(parsed) + extra_weight * REDIS_UNITS
        found.append(Cost(name, ms, weight, units, removed, longest_ms(url, "evalsha")))
    return found
