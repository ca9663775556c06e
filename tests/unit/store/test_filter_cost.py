"""A category filter costs Redis little, however deep and different the categories of the items are."""

from __future__ import annotations

from itertools import islice, product
from pathlib import Path

import pytest

from gregor.clock import ManualClock
from gregor.core.items.read_cost import EXAMINED_NS
from gregor.core.items.sync import View, cursor_for
from gregor.core.limits import Limits
from gregor.core.messages.model import Sender
from gregor.core.rate_limit import REQUEST_NS
from gregor.cpu_meter import CpuMeter
from gregor.store.redis.store import open_store
from tests.bench.cost import TARGET_MS
from tests.bench.sockets import forget_durations, longest_ms, redis_cpu_s
from tests.support.builders import NOW_US, dismissing, item, message, planned
from tests.support.redis_speed import slowness
from tests.support.servers import BINARIES, running_server
from tests.unit.store.test_worst_cost import ATTEMPTS, MARGIN

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("unsampled", [False, True], ids=["counted", "one hash"])
async def test_filter_of_deep_categories_costs_redis_little(tmp_path: Path, unsampled: bool) -> None:
    """All items have different categories with 62 segments, and each would be compared with 100 prefixes."""
    view = View(category_filter=tuple(sorted(f"p{n:02}{'.b' * (n % 60)}" for n in range(100))))
    limited, categories = Sender("phone", view.category_filter), deep_categories(2_000, unsampled=unsampled)
    longest = dict[str, float]()
    with running_server(BINARIES[-1], tmp_path) as server:
        store = await open_store(server.url, Limits(), "gregor")
        users = store.users
        for at in range(0, 2_000, 100):
            new = {f"g{n}": item(categories[n]) for n in range(at, at + 100)}
            await users.commit("alice", planned(message(new)))
        [position] = await users.heads(["alice"])
        assert position is not None
        old = cursor_for(position.epoch, view, position.seq)
        for at in range(0, 2_000, 100):
            await users.commit("alice", dismissing(*(f"g{n}" for n in range(at, at + 100))))
            new = {f"l{n}": item(categories[n]) for n in range(at, at + 100)}
            await users.commit("alice", planned(message(new)))
        ids = [f"l{n}" for n in range(1_000)]
        for case, call in (
            ("state", lambda: users.state("alice", view, NOW_US)),
            ("sync", lambda: users.sync("alice", view, None, None, NOW_US)),
            ("delta", lambda: users.sync("alice", view, old, None, NOW_US)),
            ("history", lambda: users.history("alice", view, None, 100, NOW_US)),
            ("past", lambda: users.state_at("alice", view, NOW_US - 1, NOW_US)),
            ("dismissal", lambda: users.commit("alice", planned(message(ids=ids), limited, NOW_US + 1))),
        ):
            longest[case] = float("inf")
            for _ in range(2 * ATTEMPTS):
                slower = slowness(server)
                forget_durations(server.url)
                before_s = redis_cpu_s(server.url)
                await call()
                # The slow log includes time in which other processes ran. The CPU time of Redis is a bound, too.
                cpu_ms = 1_000 * (redis_cpu_s(server.url) - before_s)
                longest[case] = min(longest[case], min(longest_ms(server.url, "evalsha"), cpu_ms) / slower)
        await store.close()

    # 2,000 different categories of one segment take 2 ms.
    assert max(longest.values()) <= MARGIN * TARGET_MS, longest


@pytest.mark.parametrize("binary", BINARIES, ids=lambda path: Path(path).name)
async def test_filtered_read_is_charged_for_the_time_of_redis(tmp_path: Path, binary: str) -> None:
    """Its filter matches no item, so it examines few records."""
    view = View("phone", tuple(sorted(f"p{n:02}{'.b' * (n % 60)}" for n in range(100))))

    used_ms, charged_ms = await _cost_of_a_read(tmp_path, binary, deep_categories(499, unsampled=False), view)

    # The time of commands outside of the script is not charged.
    assert charged_ms >= used_ms / MARGIN


async def test_ordinary_filter_is_charged_for_its_records_only(tmp_path: Path) -> None:
    categories, view = [f"team.p{n % 40}.comment" for n in range(499)], View("phone", ("rare", "team.p3"))

    _, charged_ms = await _cost_of_a_read(tmp_path, BINARIES[-1], categories, view)
    _, unfiltered_ms = await _cost_of_a_read(tmp_path / "all", BINARIES[-1], categories, View("phone"))

    # Less than the unit that each read takes before.
    assert charged_ms < 1
    assert unfiltered_ms == pytest.approx((499 + 2 * 499 // 8) * EXAMINED_NS / REQUEST_NS)


async def _cost_of_a_read(path: Path, binary: str, categories: list[str], view: View) -> tuple[float, float]:
    """Return the CPU time of Redis for a state of these items, in ms, and the units that it is charged for."""
    path.mkdir(exist_ok=True)
    costs, reads = [], 20
    with running_server(binary, path) as server:
        store = await open_store(server.url, Limits(), "gregor")
        for at in range(0, len(categories), 100):
            new = {f"i{n}": item(category) for n, category in enumerate(categories[at : at + 100], at)}
            await store.users.commit("alice", planned(message(new)))
        for _ in range(ATTEMPTS):
            # The clock stands, so the time of this process does not count.
            meter, before_s = CpuMeter(ManualClock(NOW_US).cpu_ns), redis_cpu_s(server.url)
            for _ in range(reads):
                await meter.run(store.users.state("alice", view, NOW_US))
            used_ms = 1_000 * (redis_cpu_s(server.url) - before_s) / reads
            costs.append((used_ms, meter.used_ns / REQUEST_NS / reads))
        await store.close()
    return min(costs)


def deep_categories(count: int, *, unsampled: bool) -> list[str]:
    """Return different categories of 62 segments.

    Args:
        unsampled: They differ only where Lua, which hashes every fourth character of them, does not look.
    """
    if not unsampled:
        return [f"{n:x}" + ".c" * 61 for n in range(count)]
    letters = "abcdefghijklmnopqrstuvwxyz"
    digits = product(letters, repeat=3)
    return [".".join(["c", "c", a, "c", b, "c", "c", "c", c, *["c"] * 53]) for a, b, c in islice(digits, count)]
