"""Ids that have one hash in the string table of Redis's Lua, which is hashed without a seed (`lstring.c`).

The hash of Lua 5.1 reads a string from its end, a character after the other, into 32 bits. From a known value, many
blocks of three characters lead to the same next value. Ids made of such blocks all have one hash.
"""

from __future__ import annotations

import itertools
import string

_ALPHABET = (string.ascii_letters + string.digits + "._:@-").encode()
_MASK = 0xFFFF_FFFF
_BLOCK = 3


def colliding_ids(count: int, length: int = 18) -> list[str]:
    """Return different ids of ``length`` characters that have one hash."""
    value, groups, left = length, [], length - 1
    while left >= _BLOCK:
        value, group = _largest_group(value)
        groups.append(group)
        left -= _BLOCK
    blocks = itertools.islice(itertools.product(*groups), count)
    ids = ["i" * (left + 1) + b"".join(reversed(choice)).decode() for choice in blocks]
    assert len(set(ids)) == count, "too few ids of this length"
    return ids


def _largest_group(value: int) -> tuple[int, list[bytes]]:
    """Return the next value that most blocks lead to, and these blocks."""
    reached = {value: [b""]}
    for _ in range(_BLOCK):
        following: dict[int, list[bytes]] = {}
        for before, ends in reached.items():
            mixed = ((before << 5) & _MASK) + (before >> 2)
            for letter in _ALPHABET:
                after = before ^ ((mixed + letter) & _MASK)
                following.setdefault(after, []).extend(bytes((letter,)) + end for end in ends)
        reached = following
    return max(reached.items(), key=lambda each: len(each[1]))
