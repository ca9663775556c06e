"""The users of one step of a job that serves every known user, partition by partition."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import msgspec

CountUsers = Callable[[str, str, int], None]
"""Counts users: kind of the job, outcome, number."""


class UserBatch(msgspec.Struct):
    """The users of one step. ``share``: their part of all partitions, for the pace."""

    users: list[str] = []
    completed: list[int] = []
    share: float = 0.0
    after: str = ""


def next_batch(partitions: Sequence[int], users: Mapping[int, Sequence[str]], after: str, most: int) -> UserBatch:
    """Return the next users of some partitions, at most ``most``.

    ``users``: the sorted users of each reachable partition. ``after``: the last user that was served, in the first
    partition; empty: no user of it was.
    """
    batch = UserBatch()
    for place, partition in enumerate(partitions):
        if partition not in users:
            continue
        known = users[partition]
        left = [uid for uid in known if uid > after] if after and place == 0 else known
        chosen = left[: most - len(batch.users)]
        batch.users += chosen
        batch.share += len(chosen) / len(known) if known else 1.0
        if len(chosen) < len(left):
            # Served in part: the cursor can say so only of the first partition that is left.
            batch.after = chosen[-1] if chosen else ""
            break
        batch.completed.append(partition)
    return batch
