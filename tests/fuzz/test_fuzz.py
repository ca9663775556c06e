"""Fuzzing with a time budget: ``make fuzz`` runs each target for ``FUZZ_SECONDS`` (60).

Inputs are random bytes, and seeds with random edits. An input that breaks a target is written to ``.fuzz/``: fix the
parser, and keep the input as a seed.
"""

from __future__ import annotations

import hashlib
import os
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz.targets import TARGETS
from tests.fuzz.test_seeds import SEEDS

pytestmark = [pytest.mark.fuzz, pytest.mark.timeout(3_600)]
SECONDS = float(os.environ.get("FUZZ_SECONDS", "60"))
ROUND = 2_000
"""Examples of one Hypothesis run; runs are repeated until the time is over."""
CRASHERS = Path(".fuzz")


@st.composite
def edited(draw: st.DrawFn, seeds: list[bytes]) -> bytes:
    """Return a seed with up to six edits: bytes replaced, removed, inserted, repeated, or taken from another seed."""
    data = draw(st.sampled_from(seeds))
    for _ in range(draw(st.integers(0, 6))):
        at = draw(st.integers(0, len(data)))
        size = draw(st.sampled_from((0, 1, 1, 2, 4, 8, 64)))
        other = draw(st.sampled_from(seeds))
        begin = draw(st.integers(0, len(other)))
        new = draw(
            st.binary(max_size=8)
            | st.just(other[begin : begin + 32])
            | st.sampled_from((b"\0", b"\xff" * 8, b'"', b"\\", b"1e999", b"\xed\xa0\x80", b"[" * 70, b"\r\n"))
        )
        data = data[:at] + new + data[at + size :]
    return data


@pytest.mark.parametrize("name", TARGETS)
def test_no_input_breaks_the_target(name: str) -> None:
    seeds = [file.read_bytes() for file in sorted((SEEDS / name).iterdir())]
    end = time.monotonic() + SECONDS
    tried = 0

    @settings(max_examples=ROUND, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(st.binary(max_size=300) | edited(seeds))
    def run(data: bytes) -> None:
        nonlocal tried
        tried += 1
        try:
            TARGETS[name](data)
        except Exception:
            _keep(name, data)  # the last one written is the smallest
            raise

    while time.monotonic() < end:
        run()
    print(f"{name}: {tried} inputs")


def _keep(name: str, data: bytes) -> None:
    folder = CRASHERS / name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / hashlib.sha256(data).hexdigest()[:16]).write_bytes(data)
