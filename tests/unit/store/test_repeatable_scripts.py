"""Calls that a cluster client may repeat after a lost reply: scripts that write nothing, and commits of facts."""

import re
from importlib.resources import files

import pytest

from gregor.core.limits import Limits
from gregor.core.messages.model import Commit, RemovalReason, Sender
from gregor.store.redis import scripts
from gregor.store.redis.keys import Keys
from gregor.store.redis.users.commit_command import CommitCommands
from tests.support.builders import NOW, NOW_US, RESET, creating, dismissing, external, interval, planned, sweeping

WRITES = re.compile(
    r"'(SET|SETEX|PSETEX|GETDEL|DEL|UNLINK|EXPIRE\w*|PEXPIRE\w*|PERSIST|INCR\w*|DECR\w*|HSET\w*|HDEL|HINCRBY|ZADD|"
    r"ZREM\w*|ZINCRBY|LPUSH|RPUSH|LTRIM|LPOP|RPOP|SADD|SREM|XADD|XDEL|XTRIM|XACK|XGROUP|S?PUBLISH)'"
)
COMMANDS = CommitCommands(Keys("gregor"), Limits(), allow_oom=True, general=False)


def is_repeatable(commit: Commit) -> bool:
    script, _ = COMMANDS.of("alice", commit)
    return script.is_repeatable


@pytest.mark.parametrize("name", sorted(scripts._READS))
def test_repeatable_script_writes_nothing(name: str) -> None:
    source = files("gregor.store").joinpath("lua", *f"{name}.lua".split("/")).read_text("utf-8")

    assert WRITES.findall(source) == []
    assert scripts.load(name).is_repeatable


def test_script_that_writes_is_not_repeatable() -> None:
    assert not scripts.load("deployment/rate_limit").is_repeatable
    assert not scripts.load(*scripts.COLLECT).is_repeatable


@pytest.mark.parametrize(
    "commit",
    [
        creating("a"),
        creating("a", "b"),
        dismissing("a"),
        sweeping(interval("news", end=NOW)),
        creating("c", expires="+1d"),
        planned(external({"x": 1}, message_id="m1")),
        planned(RESET | {"id": "m2"}),
    ],
)
def test_facts_are_repeatable(commit: Commit) -> None:
    assert is_repeatable(commit)


@pytest.mark.parametrize(
    "commit",
    [
        planned(external({"x": 1})),
        planned(RESET),
        sweeping(interval("news")),
        Commit(NOW_US, b"abc", Sender(), remind=("a", 0)),
        Commit(NOW_US, b"abc", Sender(), forget_device="phone"),
        Commit(NOW_US, b"abc", Sender(), ids=("a",), reason=RemovalReason.EXPIRED),
        Commit(NOW_US, b"abc", Sender(), ids=("a",), is_conditional=True),
        Commit(NOW_US, b"abc", Sender(), keep=(("user.joined", 3),)),
    ],
)
def test_commit_that_counts_is_not_repeatable(commit: Commit) -> None:
    assert not is_repeatable(commit)
