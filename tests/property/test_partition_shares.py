"""Laws of the sharing of partitions: always one owner, another deputy, and only the shares of one process move."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from gregor_scheduler.partition_shares import PartitionShares, Share

COUNT = 1_024
names = st.text(st.characters(codec="utf-8"), min_size=1, max_size=40)
groups = st.sets(names, min_size=1, max_size=6)


def shares_of(members: set[str]) -> dict[str, Share]:
    """Return what each member computes from the same list."""
    found = {}
    for own in members:
        shares = PartitionShares(COUNT, own)
        shares.update(members)
        found[own] = shares.share
    return found


def owners(members: set[str]) -> dict[int, str]:
    return {partition: own for own, share in shares_of(members).items() for partition in share.owned}


@settings(max_examples=25, deadline=None)
@given(members=groups)
def test_every_partition_has_one_owner(members: set[str]) -> None:
    found = shares_of(members)
    assert sorted(n for share in found.values() for n in share.owned) == list(range(COUNT))
    for rank in (1, 2):
        deputies = sorted(n for share in found.values() for n, own_rank in share.deputy.items() if own_rank == rank)
        assert deputies == (list(range(COUNT)) if len(members) > rank else [])
    assert all(not share.owned & share.deputy.keys() for share in found.values())


@settings(max_examples=25, deadline=None)
@given(members=groups, other=names)
def test_only_partitions_of_the_changed_one_move(members: set[str], other: str) -> None:
    before, after = owners(members - {other} or {"x"}), owners((members - {other} or {"x"}) | {other})
    assert all(after[n] in (before[n], other) for n in range(COUNT))


@settings(max_examples=25, deadline=None)
@given(members=st.sets(names, min_size=2, max_size=6))
def test_deputy_owns_after_the_owner_left(members: set[str]) -> None:
    found = shares_of(members)
    gone = min(members)
    after = owners(members - {gone})
    for own, share in found.items():
        if own != gone:
            assert all(after[n] == own for n in found[gone].owned if share.deputy.get(n) == 1)


@settings(max_examples=10, deadline=None)
@given(members=st.sets(names, min_size=4, max_size=4))
def test_shares_are_balanced(members: set[str]) -> None:
    # 256 each on average, with a standard deviation of 14.
    assert all(170 < len(share.owned) < 342 for share in shares_of(members).values())


@given(members=groups)
@settings(max_examples=10, deadline=None)
def test_same_list_changes_nothing(members: set[str]) -> None:
    shares = PartitionShares(COUNT, min(members))
    shares.update(members)
    assert shares.update(sorted(members)) is False


def test_missing_own_name_is_added() -> None:
    shares = PartitionShares(COUNT, "me")
    assert len(shares.share.owned) == COUNT and not shares.share.deputy
    assert shares.update({"other"}) is True
    assert shares.share.owned | shares.share.deputy.keys() == frozenset(range(COUNT))
