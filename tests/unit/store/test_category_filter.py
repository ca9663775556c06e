"""The category filter of the Lua scripts allows the same categories as the filter in Python."""

from __future__ import annotations

from random import Random

from gregor.core.category_filter import pack_category_filter
from gregor.core.ids import covers, normalize_prefixes
from gregor.redis.commands import Script
from gregor.store.redis import scripts
from tests.unit.store.redis_setup import RedisSetup

# "-" sorts before "." and the others after it.
SEGMENTS = ("a", "a-", "a0", "aA", "a_", "aa", "b")
FILTERS, NAMES = 100, 200
SOURCE = """
local is_allowed, replies = category_filter(ARGV[1]), {}
for i = 2, #ARGV do replies[i-1] = is_allowed(ARGV[i]) and 1 or 0 end
return replies
"""


async def test_lua_allows_what_python_allows(setup: RedisSetup) -> None:
    random = Random(1)
    script = Script(scripts.load("codec", "commit/category_filter").source + SOURCE)

    for n in range(FILTERS):
        given = [random_name(random) for _ in range(random.choice((0, 1, 2, 5, 20, 100)))]
        extended = [f"{prefix}{random.choice('.-_0')}{random_name(random)}" for prefix in given[: NAMES // 4]]
        # The search begins after some look-ups, so the covered categories come last.
        names = [*(random_name(random) for _ in range(NAMES // 2)), *given[: NAMES // 4], *extended]
        prefixes = normalize_prefixes(given)
        replies = await setup.connection.evalsha(
            script, (setup.keys.namespace,), (pack_category_filter(prefixes), *names)
        )

        assert replies == [any(covers(prefix, name) for prefix in given) for name in names], (n, prefixes, names)


async def test_lua_allows_everything_without_prefixes(setup: RedisSetup) -> None:
    script = Script(scripts.load("codec", "commit/category_filter").source + SOURCE)

    replies = await setup.connection.evalsha(script, (setup.keys.namespace,), (pack_category_filter(None), "a", "a.b"))

    assert replies == [1, 1]


def random_name(random: Random) -> str:
    """Return a name of 1 to 12 segments."""
    return ".".join(random.choices(SEGMENTS, k=random.randint(1, 12)))
