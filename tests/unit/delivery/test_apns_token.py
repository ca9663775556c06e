"""The APNs provider token: shared by all processes of a team, renewed rarely but in time."""

from __future__ import annotations

from itertools import pairwise

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from hypothesis import given
from hypothesis import strategies as st

from gregor.clock import ManualClock
from gregor_delivery.channels.apns.token import MIN_RENEWAL_S, PERIOD_S, ProviderToken
from tests.support.sample_pushes import NOW_US

KEY = ec.generate_private_key(ec.SECP256R1())
PEM = KEY.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
APPLE_TAKES_S = 60 * 60
DAY_S = 86_400


def token_of(clock: ManualClock) -> ProviderToken:
    return ProviderToken(PEM, "KEY1", "TEAM", clock)


@given(
    starts=st.lists(st.integers(0, DAY_S), min_size=1, max_size=5), sends=st.lists(st.integers(0, DAY_S), min_size=1)
)
def test_few_tokens_and_none_expired_over_processes(starts: list[int], sends: list[int]) -> None:
    clocks = [ManualClock(NOW_US + start * 1_000_000) for start in starts]
    processes = [(clock, token_of(clock)) for clock in clocks]
    seen: dict[bytes, int] = {}
    shown: dict[int, list[tuple[int, bytes]]] = {n: [] for n in range(len(processes))}
    for at_s in sorted(sends):
        for n, (clock, process) in enumerate(processes):
            now_s = (clock.now_us() - NOW_US) // 1_000_000
            if now_s > at_s:
                continue  # it is not started yet
            clock.advance(at_s - now_s)
            header = process.header()
            claims = jwt.decode(header.removeprefix(b"bearer "), KEY.public_key(), ["ES256"], {"verify_iat": False})
            assert 0 <= NOW_US // 1_000_000 + at_s - claims["iat"] < APPLE_TAKES_S
            seen.setdefault(header, claims["iat"])
            if not shown[n] or shown[n][-1][1] != header:
                shown[n].append((at_s, header))

    for times in (sorted(seen.values()), *([at_s for at_s, _ in each] for each in shown.values())):
        assert all(later - earlier >= MIN_RENEWAL_S for earlier, later in pairwise(times))


@pytest.mark.parametrize("ahead_s", [2 * PERIOD_S, DAY_S])
@pytest.mark.parametrize("by_expiry", [False, True], ids=["next push", "APNs reports it as expired"])
def test_token_is_signed_again_after_the_clock_was_set_back(ahead_s: int, by_expiry: bool) -> None:
    """Apple rejects tokens from the future. The channel was stopped for up to 45 minutes after the clock was right."""
    clock = ManualClock(NOW_US + ahead_s * 1_000_000)
    process = token_of(clock)
    wrong = process.header()
    clock.step(-ahead_s)

    if by_expiry:
        assert process.renew(wrong)
    right = process.header()

    assert right == token_of(ManualClock(NOW_US)).header(), "all processes have the same token"
    assert not process.renew(right), "and no further one"


def test_small_step_back_keeps_the_token() -> None:
    """Apple rejects frequent changes of the token."""
    start_us = NOW_US - NOW_US % (PERIOD_S * 1_000_000)
    clock = ManualClock(start_us)
    process = token_of(clock)
    before = process.header()
    clock.step(-10)

    assert process.header() == before


def test_restarted_process_has_the_same_token() -> None:
    clock = ManualClock(NOW_US)
    before = token_of(clock).header()

    assert token_of(clock).header() == before
