"""Limits on connections: of a process, of a client address, and new ones a second."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from gregor.net.connection_limits import MAX_IDLE_ADDRESSES, Admission, ConnectionLimiter, ConnectionLimits

LIMITS = ConnectionLimits(process=5, address=3, handshakes=2.0)


def test_connections_of_a_process_are_limited() -> None:
    limiter = ConnectionLimiter(LIMITS)

    assert [limiter.open() for _ in range(6)] == [Admission.ADMITTED] * 5 + [Admission.PROCESS]
    limiter.close()
    limiter.close()
    assert limiter.open().is_admitted


def test_connections_of_an_address_are_limited() -> None:
    limiter = ConnectionLimiter(LIMITS)

    found = [limiter.open_for("a", 100.0 * at) for at in range(7)]

    assert found == [Admission.ADMITTED] * 3 + [Admission.ADDRESS] * 3 + [Admission.FLOOD]
    assert limiter.open_for("b", 0.0).is_admitted
    for _ in range(5):
        limiter.close_for("a")
    assert limiter.open_for("a", 1_000.0).is_admitted


def test_handshakes_of_an_address_are_limited() -> None:
    limiter = ConnectionLimiter(ConnectionLimits(address=1_000, handshakes=2.0))

    burst = [limiter.open_for("a", 0.0) for _ in range(11)]
    for _ in burst:
        limiter.close_for("a")

    assert Counter(burst) == {Admission.ADMITTED: 10, Admission.HANDSHAKES: 1}
    assert limiter.retry_after_s("a", 0.0) == 1.0
    assert limiter.open_for("a", 0.4) is Admission.HANDSHAKES
    assert limiter.open_for("b", 0.4).is_admitted
    assert limiter.open_for("a", 1.0).is_admitted


def test_connection_without_a_key_is_not_limited() -> None:
    limiter = ConnectionLimiter(LIMITS)

    assert all(limiter.open_for(None, 0.0).is_admitted for _ in range(100))
    limiter.close_for(None)
    assert limiter.addresses == 0


def test_idle_addresses_are_bounded() -> None:
    limiter = ConnectionLimiter(ConnectionLimits())

    for number in range(MAX_IDLE_ADDRESSES + 100):
        limiter.open_for(str(number), 0.0)
        limiter.close_for(str(number))

    assert limiter.addresses == MAX_IDLE_ADDRESSES


@given(st.lists(st.tuples(st.sampled_from("abc"), st.booleans(), st.floats(0, 10)), max_size=60))
def test_counts_equal_the_open_connections(steps: list[tuple[str, bool, float]]) -> None:
    limiter = ConnectionLimiter(ConnectionLimits(address=4, handshakes=1_000.0))
    model: Counter[str] = Counter()
    now_s = 0.0

    for key, opens, wait_s in steps:
        now_s += wait_s
        if opens:
            model[key] += 1
            expected = (
                Admission.FLOOD if model[key] > 8 else Admission.ADDRESS if model[key] > 4 else Admission.ADMITTED
            )
            assert limiter.open_for(key, now_s) is expected
        elif model[key]:
            model[key] -= 1
            limiter.close_for(key)
