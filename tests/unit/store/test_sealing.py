"""Values that only the holder of a credential can read."""

from hypothesis import assume, given
from hypothesis import strategies as st

from gregor.store.sealing import seal, unseal

credentials = st.text(min_size=1, max_size=80)


@given(credentials, st.binary(max_size=200))
def test_sealed_value_is_read_with_its_credential(credential: str, value: bytes) -> None:
    assert unseal(credential, seal(credential, value)) == value


@given(credentials, credentials, st.binary(max_size=200))
def test_other_credential_reads_nothing(credential: str, other: str, value: bytes) -> None:
    assume(credential != other)

    assert unseal(other, seal(credential, value)) is None


@given(credentials, st.binary(max_size=60))
def test_value_that_was_never_sealed_is_unreadable(credential: str, stored: bytes) -> None:
    assert unseal(credential, stored) is None


def test_sealed_value_shows_no_user() -> None:
    assert b"alice" not in seal("credential", b'{"uid":"alice"}')
