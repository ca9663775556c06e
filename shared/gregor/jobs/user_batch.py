"""The users of one step of a job that serves every known user, partition by partition."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from hashlib import blake2b

import msgspec
from msgspec.structs import replace

CountUsers = Callable[[str, str, int], None]
"""Counts users: kind of the job, outcome, number."""


class PartitionPart(msgspec.Struct, frozen=True):
    """Users of one partition, in the order of ``place_of``.

    Attributes:
        begin: The place of the user before them; empty: the first one of the partition is among them.
        known_count: The number of all users of the partition.
        is_last: No user of the partition follows.
        has_failed: The user that follows could not be served.
    """

    partition: int
    users: Sequence[str]
    begin: str
    known_count: int
    is_last: bool
    has_failed: bool = False

    @property
    def end(self) -> str:
        """The place after which the partition continues."""
        return place_of(self.users[-1]) if self.users else self.begin

    @property
    def share(self) -> float:
        """The part of the partition that these users are."""
        return len(self.users) / self.known_count if self.known_count else 1.0

    def until_failure(self, failed: Collection[str]) -> PartitionPart:
        """Return the users before the first one that could not be served. The next pass repeats those after it."""
        count = next((number for number, uid in enumerate(self.users) if uid in failed), None)
        return self if count is None else replace(self, users=self.users[:count], is_last=False, has_failed=True)


class UserBatch(msgspec.Struct, frozen=True):
    """The users of one step, by partition."""

    parts: Sequence[PartitionPart] = ()

    @property
    def users(self) -> list[str]:
        """All users of the step."""
        return [uid for part in self.parts for uid in part.users]

    @property
    def share(self) -> float:
        """The number of partitions that these users are, for the pace of the job."""
        return sum(part.share for part in self.parts)

    def without(self, failed: Collection[str]) -> UserBatch:
        """Return the users of each partition before the first one that could not be served."""
        return UserBatch([part.until_failure(failed) for part in self.parts]) if failed else self


def next_batch(
    partitions: Sequence[int], users: Mapping[int, Sequence[str]], places: Mapping[int, str], most: int
) -> UserBatch:
    """Return the next users of some partitions, at most ``most``.

    ``users``: the users of each reachable partition. ``places``: the place of the last user that was served, of each
    partition that was served in part.
    """
    parts: list[PartitionPart] = []
    for partition in partitions:
        if partition not in users:
            continue
        begin = places.get(partition, "")
        known = sorted((place_of(uid), uid) for uid in users[partition])
        left = [uid for place, uid in known if place > begin]
        chosen = left[:most]
        most -= len(chosen)
        is_last = len(chosen) == len(left)
        parts.append(PartitionPart(partition, chosen, begin, len(known), is_last))
        if not is_last:
            break
    return UserBatch(parts)


def place_of(uid: str) -> str:
    """Return the place of a user in a partition. A cursor that had the uid would keep it after the user is deleted."""
    return blake2b(uid.encode(), digest_size=12).hexdigest()
