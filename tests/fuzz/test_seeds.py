"""Replays the kept seeds: typical inputs, edges, and every input that once broke a parser."""

from pathlib import Path

import pytest

from tests.fuzz.targets import TARGETS

SEEDS = Path(__file__).parent / "seeds"


@pytest.mark.parametrize("name", TARGETS)
def test_kept_seeds_break_nothing(name: str) -> None:
    files = sorted((SEEDS / name).iterdir())

    assert len(files) >= 4
    for file in files:
        TARGETS[name](file.read_bytes())


def test_contributors_find_every_target() -> None:
    guide = (Path(__file__).parents[2] / "CONTRIBUTING.md").read_text("utf-8")

    assert [name for name in TARGETS if f"`{name}`" not in guide] == []
    assert "make fuzz ARGS='-k http_head'" in guide


def test_every_seed_has_a_target() -> None:
    assert {folder.name for folder in SEEDS.iterdir()} == set(TARGETS)
