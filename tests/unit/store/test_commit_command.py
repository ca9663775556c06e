"""The command of a bare commit is joined by hand: it must equal the general one byte for byte."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from gregor.core.messages.model import Commit, ItemTimer, ItemTimerKind, RemovalReason, Sender
from gregor.redis.connection import pack_script
from gregor.store.redis import scripts
from gregor.store.redis.keys import Keys
from gregor.store.redis.users.commit_command import CommitCommands
from gregor.store.redis.users.interval_search import SEARCH_PAGE, pack_search_above
from gregor.store.redis.users.record_codec import GENERAL, RECORD_REMOVALS, commit_arguments, commit_limits
from tests.support.builders import LIMITS, NOW_US, SEED, creating, dismissing, interval, planned, sweeping
from tests.support.builders import item as an_item
from tests.support.builders import message as a_message
from tests.support.items import creations

OF_ALL = Keys("gregor")
CALLS = CommitCommands(OF_ALL, LIMITS, allow_oom=True, general=False)
KEYS = OF_ALL.of_user("alice")
GROW = scripts.load(*scripts.COMMIT)
SHRINK = scripts.load(*scripts.COMMIT_AT_MAXMEMORY, flags="allow-oom")
TIMER = ItemTimer(ItemTimerKind.PUSH, NOW_US + 1)


def packed(commit: Commit, names: tuple[str, ...], options: int = 0, script: Any = GROW) -> tuple[Any, bytes]:
    """Return the command made by the general way."""
    arguments = commit_arguments(commit, commit_limits(LIMITS), options, pack_search_above(SEARCH_PAGE))
    return script, pack_script(script.sha, names, arguments)


@given(creations(), st.sampled_from(["", "phone", "d" * 128]), st.integers(0, 2_000))
def test_bare_fast_path_packs_like_the_general_one(creation: Any, device: str, size: int) -> None:
    body = b'"%b"' % (b"x" * size)  # sizes around the one from which the header of an argument is not precomputed
    commit = Commit(NOW_US, SEED, Sender(device), (replace(creation, body=body, json=creation.json + body),))
    is_timed = creation.expires_us is not None or creation.remind_at_us
    names = KEYS.commit.timed_creation if is_timed else KEYS.commit.creation

    assert CALLS.of("alice", commit) == packed(commit, names)


BARE = creating("a")
FEW, SOME, ALL = KEYS.commit.timed_creation, KEYS.commit.dismissal, KEYS.commit.general


@pytest.mark.parametrize(
    ("commit", "names", "script"),
    [
        (replace(BARE, creations=(replace(BARE.creations[0], timers=(TIMER,)),)), FEW, GROW),
        (creating("a", "b"), ALL, GROW),
        (planned(a_message({"a": an_item()}, ["x"])), ALL, GROW),
        (planned(a_message({"a": an_item()}, intervals=[interval("news")])), ALL, GROW),
        (planned(a_message({"a": an_item()}, message_id="m")), ALL, GROW),
        (replace(BARE, has_follow_up=True), KEYS.commit.creation, GROW),
        (replace(BARE, is_conditional=True), KEYS.commit.creation, GROW),
        (replace(BARE, records_removals=True), KEYS.commit.creation, GROW),
        (replace(BARE, reason=RemovalReason.AGGREGATED), KEYS.commit.creation, GROW),
        (dismissing("a"), SOME, SHRINK),
        (dismissing("a", "b"), ALL, SHRINK),
        (dismissing("a", sender=Sender("phone", ("news",))), ALL, SHRINK),
        (sweeping(interval("news")), ALL, SHRINK),
    ],
)
def test_other_commits_take_the_general_path(commit: Commit, names: tuple[str, ...], script: Any) -> None:
    assert CALLS.of("alice", commit) == packed(commit, names, script=script)


def test_options_and_recorded_removals_are_packed() -> None:
    every = CommitCommands(OF_ALL, LIMITS, allow_oom=True, general=True)

    assert CALLS.of("alice", BARE, records_removals=True) == packed(BARE, KEYS.commit.creation, RECORD_REMOVALS)
    assert every.of("alice", BARE) == packed(BARE, ALL, GENERAL)


def test_exempt_ids_of_an_interval_are_one_argument() -> None:
    sweep = sweeping(*[interval("news", begin=n, end=n, skip=[f"i{k}" for k in range(300)]) for n in range(32)])

    assert len(commit_arguments(sweep, commit_limits(LIMITS))) == 2 + 3 * 32
