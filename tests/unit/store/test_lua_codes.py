"""The letter codes and option bits that Lua and Python share are equal."""

from __future__ import annotations

import re
from importlib.resources import files

from gregor.core.limits import AGENDA_ENTRIES_OF_AN_ITEM
from gregor.core.notify import ledger
from gregor.core.notify.ledger import DeliveryState
from gregor.store.contract.agenda import WorkKind
from gregor.store.redis.users import record_codec

LUA = files("gregor.store").joinpath("lua")


def source(path: str) -> str:
    """Return the text of one script file."""
    return LUA.joinpath(*path.split("/")).read_text("utf-8")


def test_agenda_kinds_of_lua_are_those_of_python() -> None:
    table = source("codec.lua").partition("-- agenda")[2].partition("local struct")[0]

    documented = set(re.findall(r"\b([a-z]) ([A-Z]+)\b", table))

    stored = {(kind.value, kind.name) for kind in WorkKind if kind.name != "FORGET"}
    assert documented == stored | {(letter, "COLLECT") for letter in "gme"}


def test_housekeeping_kinds_differ_from_scheduler_kinds() -> None:
    [letters] = re.findall(r"HOUSEKEEPING_KINDS = '(\w+)'", source("codec.lua"))

    assert set(letters) == {WorkKind.EXPIRE.value, WorkKind.FORGET.value, "m", "e"}


def test_agenda_entries_of_an_item_are_those_of_python() -> None:
    [number] = re.findall(r"ENTRIES_OF_AN_ITEM = (\d+)", source("codec.lua"))

    assert int(number) == AGENDA_ENTRIES_OF_AN_ITEM


def test_option_bits_of_a_commit_are_those_of_python() -> None:
    options = source("commit/commit.lua").partition("-- Options")[2].partition("-- Returns")[0]

    documented = {name: int(bit) for bit, name in re.findall(r"\b(\d+) ([A-Z_]+)\b", options)}

    assert documented == {name: getattr(record_codec, name) for name in documented}
    assert sorted(documented.values()) == [2**n for n in range(len(documented))], "one bit is missing, or is used twice"


def test_final_delivery_states_are_those_of_python() -> None:
    final = {DeliveryState.SENT, DeliveryState.CANCELLED, DeliveryState.WITHDRAWN, DeliveryState.DEAD}

    for path in ("ledger/claim.lua", "ledger/record_outcome.lua", "ledger/move.lua"):
        [letters] = re.findall(r"FINAL_STATES = '(\w+)'", source(path))
        assert {DeliveryState(letter) for letter in letters} == final


def test_limits_of_folding_are_those_of_python() -> None:
    [(names, numbers)] = re.findall(r"local (MAX_FOLDED, [\w, ]+) = ([\d, ]+)", source("ledger/claim.lua"))

    assert {name: getattr(ledger, name) for name in names.split(", ")} == dict(
        zip(names.split(", "), map(int, numbers.split(", ")), strict=True)
    )


def test_record_letters_are_those_of_python() -> None:
    letters = {letter.decode() for letter in record_codec.RECORD_KINDS}

    for path in ("commit/commit.lua", "commit/collect.lua", "agenda/due_work.lua"):
        [condition] = re.findall(r"if raw and ((?:\w+ ~= '\w'(?: and )?)+) then", source(path))
        assert set(re.findall(r"'(\w)'", condition)) == letters


def test_delivery_letters_are_those_of_python() -> None:
    for path in ("ledger/claim.lua", "ledger/record_outcome.lua", "ledger/move.lua"):
        [letters] = re.findall(
            r"find\('(\w+)', (?:state|sub\(entry, 1, 1\)), 1, true\) then\s+return {err", source(path)
        )
        assert set(letters) == {state.value for state in DeliveryState}


def test_every_script_says_what_it_does_and_returns() -> None:
    scripts = [path for folder in LUA.iterdir() if folder.is_dir() for path in folder.iterdir()]

    assert len(scripts) > 30
    for path in scripts:
        head = path.read_text("utf-8").partition("\nlocal ")[0]
        assert head.startswith(f"-- {path.name.removesuffix('.lua')}: "), path.name
        parts = (
            "lease_codec",
            "device_fields",
            "commit_fast",
            "category_filter",
            "category_of_gone",
            "next_housekeeping",
        )
        if path.name.removesuffix(".lua") not in (*parts, "dead_letter_rank"):
            assert {"KEYS", "ARGV", "Returns", "Cost"} <= set(re.findall(r"\n-- (\w+)", head)), path.name
