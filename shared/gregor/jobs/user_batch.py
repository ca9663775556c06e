"""The users of one step of a job that serves every known user, partition by partition."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from hashlib import blake2b

import msgspec

CountUsers = Callable[[str, str, int], None]
"""Counts users: kind of the job, outcome, number."""


class UserBatch(msgspec.Struct):
    """The users of one step. ``share``: their part of all partitions, for the pace. ``place``: see ``next_batch``."""

    users: list[str] = []
    completed: list[int] = []
    share: float = 0.0
    place: str = ""


def next_batch(partitions: Sequence[int], users: Mapping[int, Sequence[str]], place: str, most: int) -> UserBatch:
    """Return the next users of some partitions, at most ``most``, each partition in the order of ``place_of``.

    ``users``: the users of each reachable partition. ``place``: the place of the last user that was served, in the
    first partition; empty: no user of it was.
    """
    batch = UserBatch()
    for number, partition in enumerate(partitions):
        if partition not in users:
            continue
        known = sorted((place_of(uid), uid) for uid in users[partition])
        left = [each for each in known if each[0] > place] if place and number == 0 else known
        chosen = left[: most - len(batch.users)]
        batch.users += (uid for _, uid in chosen)
        batch.share += len(chosen) / len(known) if known else 1.0
        if len(chosen) < len(left):
            # Served in part: the cursor can say so only of the first partition that is left.
            batch.place = chosen[-1][0] if chosen else ""
            break
        batch.completed.append(partition)
    return batch


def place_of(uid: str) -> str:
    """Return the place of a user in a partition. A cursor that had the uid would keep it after the user is deleted."""
    return blake2b(uid.encode(), digest_size=12).hexdigest()
