"""Each command goes to the slot of its key; a command without one is refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gregor.redis.cluster.routing import is_read, slot_of_command, slot_of_script
from gregor.redis.cluster.slots import slot_of
from gregor.redis.commands import Script
from gregor.redis.connection import Argument, Command, pack_script

SCRIPT = Script("return 1")


@given(st.lists(st.text(max_size=200), min_size=1, max_size=12), st.lists(st.binary(max_size=2_000), max_size=4))
def test_packed_script_belongs_to_slot_of_first_key(keys: list[str], arguments: list[Argument]) -> None:
    assert slot_of_script(pack_script(SCRIPT.sha, keys, arguments)) == slot_of(keys[0].encode())
    assert slot_of_command(("EVALSHA", SCRIPT.sha, len(keys), *keys, *arguments)) == slot_of(keys[0].encode())


@pytest.mark.parametrize(
    "command",
    [("GET", "{a}x"), ("hset", b"{a}y", "f", 1), ("SPUBLISH", "{a}z", b""), ("EVAL", "return 1", 2, "{a}1", "{a}2")],
)
def test_command_belongs_to_slot_of_its_key(command: Command) -> None:
    assert slot_of_command(command) == slot_of(b"a")


@pytest.mark.parametrize(
    "command",
    [("PING",), ("INFO", "server"), ("SCRIPT", "LOAD", "x"), ("GET",), ("EVAL", "return 1", 0), ("NEW", "k"), ()],
)
def test_command_without_known_key_is_refused(command: Command) -> None:
    with pytest.raises(ValueError, match="names no key that the cluster client knows: send it to one of"):
        slot_of_command(command)


def test_script_without_keys_is_refused() -> None:
    with pytest.raises(ValueError, match="a script without keys has no slot"):
        slot_of_script(pack_script(SCRIPT.sha, [], [1]))


@pytest.mark.parametrize(
    ("command", "expected"), [(("HGETALL", "k"), True), (("get", "k"), True), (("SET", "k", 1), False)]
)
def test_only_reads_are_repeated(command: Command, expected: bool) -> None:
    assert is_read(command) == expected
