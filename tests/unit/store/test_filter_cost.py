"""A category filter costs Redis little, however deep and different the categories of the items are."""

from __future__ import annotations

from itertools import islice, product
from pathlib import Path

import pytest

from gregor.core.items.sync import View, cursor_for
from gregor.core.limits import Limits
from gregor.core.messages.model import Sender
from gregor.store.redis.store import open_store
from tests.bench.cost import TARGET_MS
from tests.bench.sockets import forget_durations, longest_ms
from tests.support.builders import NOW_US, dismissing, item, message, planned
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
            for _ in range(ATTEMPTS):
                forget_durations(server.url)
                await call()
                longest[case] = min(longest[case], longest_ms(server.url, "evalsha"))
        await store.close()

    # 2,000 different categories of one segment take 2 ms.
    assert max(longest.values()) <= MARGIN * TARGET_MS, longest


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
