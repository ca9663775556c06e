"""Names: users, devices, items, messages, sessions; categories and systems (semantics.md, "Names").

A name is one token that needs no escaping in JSON or in a Redis key. A category or system consists of dotted segments,
so a prefix is a branch of a tree: ``user`` covers ``user`` and ``user.joined``, but not ``users``.
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from typing import Final

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:@-]{0,127}\Z")
_NAME_LINES = re.compile(r"(?:[A-Za-z0-9][A-Za-z0-9._:@-]{0,127}+\n)*+\Z")
# "+" and "|" for the ids of identity providers ("auth0|123") and e-mail addresses ("alice+test@example.com").
USER_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:@+|-]{0,127}\Z")
DOTTED = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*(?:\.[A-Za-z0-9][A-Za-z0-9_-]*)*\Z")
MAX_NAME_LENGTH = 128
MAX_DOTTED_LENGTH = 128
MAX_FILTER_PREFIXES = 100
"""Prefixes in one filter: each item of a view is compared with all of them."""

BACKEND = ""
"""The sender that is not a device: a backend, or the server itself."""

GREGOR = "gregor"
"""The reserved system whose messages change the state; every other system is external."""

EVERY_DEVICE = "*"
"""``for_device`` of an item that each device dismisses for itself (semantics.md L8)."""

Prefixes = tuple[str, ...] | None
"""A category filter: sorted prefixes. ``None`` covers everything, ``()`` nothing, ``""`` as an element everything."""

_FEW_PREFIXES: Final = 8
_FEW_SEGMENTS: Final = 4
_KEY_SEPARATOR: Final = "\0"
"""Separates the segments in a sort key. NUL sorts before each character of a name."""

# ---- names


def is_name(text: object) -> bool:
    """Return whether ``text`` is a valid device, item, message or session name."""
    return isinstance(text, str) and NAME.match(text) is not None


def are_names(texts: Sequence[object]) -> bool:
    """Return whether all of the texts are valid names; six times faster than ``is_name`` for each of thousands."""
    try:
        lines = "\n".join([*texts, ""])  # type: ignore[list-item]
    except TypeError:  # one of them is not a string
        return False
    return lines.count("\n") == len(texts) and _NAME_LINES.match(lines) is not None


def is_user_id(text: object) -> bool:
    """Return whether ``text`` is a valid uid."""
    return isinstance(text, str) and USER_ID.match(text) is not None


def name_error(text: object) -> str:
    """Return why ``text`` is not a valid name, and which characters are allowed."""
    return _explain(text, "A-Z a-z 0-9 . _ : @ -", r"[^A-Za-z0-9._:@-]")


def user_id_error(text: object) -> str:
    """Return why ``text`` is not a valid uid, and which characters are allowed."""
    return _explain(text, "A-Z a-z 0-9 . _ : @ + | -", r"[^A-Za-z0-9._:@+|-]")


def _explain(text: object, allowed: str, other: str) -> str:
    rule = f"Allowed are 1 to {MAX_NAME_LENGTH} of the characters {allowed}, the first a letter or digit."
    if not isinstance(text, str):
        return f"This must be a string. {rule}"
    if not text:
        return f"This must not be empty. {rule}"
    if (found := re.search(other, text)) is not None:
        return f"The character {found[0]!r} (at position {found.start() + 1}) is not allowed here. {rule}"
    if len(text) > MAX_NAME_LENGTH:
        return f"This has {len(text)} characters. {rule}"
    return f"This begins with {text[0]!r}. {rule}"


# ---- dotted names and prefixes


def is_dotted(text: object) -> bool:
    """Return whether ``text`` is a valid category or external system."""
    return isinstance(text, str) and len(text) <= MAX_DOTTED_LENGTH and _is_dotted(text)


# A deployment has few categories, and each message has some: the cache saves the regular expression.
@lru_cache(4_096)
def _is_dotted(text: str) -> bool:
    return DOTTED.match(text) is not None


def normalize_prefix(text: object) -> str | None:
    """Return a prefix without its trailing dot (``""`` is everything), or None if it is not a valid prefix."""
    if text == "":
        return ""
    if not isinstance(text, str):
        return None
    bare = text[:-1] if text.endswith(".") else text
    return bare if is_dotted(bare) else None


def covers(prefix: str, name: str) -> bool:
    """Return whether the category or prefix ``name`` is below ``prefix``; only whole segments count."""
    return not prefix or name == prefix or (name.startswith(prefix) and name[len(prefix)] == ".")


def is_allowed(prefixes: Prefixes, name: str) -> bool:
    """Return whether the category or prefix ``name`` is below one of ``prefixes``.

    Logarithmic in the number of prefixes: a token may have a thousand, and a user 2,000 items of 64 segments.
    """
    if prefixes is None:
        return True
    if len(prefixes) <= _FEW_PREFIXES:
        return any(covers(prefix, name) for prefix in prefixes)
    if name.count(".") < _FEW_SEGMENTS:
        return any(_contains(prefixes, prefix) for prefix in prefixes_of(name))
    if not name.startswith(prefixes):  # true for most names, and takes two nanoseconds for each prefix
        return False
    keys, key = _search_keys(prefixes), sort_key(name)
    place = bisect_right(keys, key) - 1
    return place >= 0 and _covers_key(keys[place], key)


# A caller tests many names with one filter. Without the cache, each test would sort the filter.
@lru_cache(64)
def _search_keys(prefixes: tuple[str, ...]) -> list[str]:
    """Return the sorted keys of the prefixes that no other prefix covers.

    A name can then be covered only by the last key that is not above the key of the name.
    """
    keys: list[str] = []
    for key in sorted(map(sort_key, prefixes)):
        if not keys or not _covers_key(keys[-1], key):
            keys.append(key)
    return keys


def _covers_key(prefix: str, key: str) -> bool:
    return not prefix or key == prefix or (key.startswith(prefix) and key[len(prefix)] == _KEY_SEPARATOR)


def _contains(names: Sequence[str], name: str) -> bool:
    place = bisect_left(names, name)
    return place < len(names) and names[place] == name


def normalize_prefixes(prefixes: Iterable[str]) -> Prefixes:
    """Return the smallest sorted set that covers the same names; ``None`` if it covers everything.

    Time grows with their number, not with its square: a token may have thousands.
    """
    given = set(prefixes)
    if "" in given:
        return None
    fewest: list[str] = []
    for prefix in sorted(given, key=sort_key):
        if not fewest or not covers(fewest[-1], prefix):
            fewest.append(prefix)
    return tuple(sorted(fewest))


def sort_key(name: str) -> str:
    """Return a key of a category or prefix. In their order, the names that a prefix covers follow it directly."""
    return name.replace(".", _KEY_SEPARATOR)


def covered_ranges(prefixes: Iterable[str], keys: Sequence[str]) -> Iterator[slice]:
    """Yield where the names that the prefixes cover are. ``keys``: sorted keys of the names (``sort_key``)."""
    for prefix in prefixes:
        key = sort_key(prefix)
        yield slice(bisect_left(keys, key), bisect_left(keys, key + "\1"))


def intersect(left: Prefixes, right: Prefixes) -> Prefixes:
    """Return the names that both sets cover: a token's limits and a reader's filter."""
    if left is None:
        return right
    if right is None:
        return left
    narrow = [prefix for prefix in left if is_allowed(right, prefix)]
    return normalize_prefixes(narrow + [prefix for prefix in right if is_allowed(left, prefix)])


def prefixes_of(category: str) -> list[str]:
    """Return every prefix that covers ``category``, the widest (``""``) first."""
    parts = category.split(".")
    return ["", *(".".join(parts[: i + 1]) for i in range(len(parts)))]
