"""Names: users, devices, items, messages, sessions; categories and systems (semantics.md, "Names").

A name is one token that needs no escaping in JSON, in a URL path or in a Redis key. Categories and systems are dotted
segments, so that a prefix is a branch of a tree: ``user`` covers ``user`` and ``user.joined``, never ``users``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:@-]{0,127}\Z")
DOTTED = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*(?:\.[A-Za-z0-9][A-Za-z0-9_-]*)*\Z")
MAX_DOTTED_LENGTH = 128
MAX_FILTER_PREFIXES = 100
"""Prefixes that one filter may name: each item of a view is held against all of them."""

BACKEND = ""
"""The sender that is no device: a backend, or the server itself."""

GREGOR = "gregor"
"""The reserved system whose messages change the state; every other system is external."""

EVERY_DEVICE = "*"
"""``for_device`` of an item that each device dismisses for itself (semantics.md L8)."""

Prefixes = tuple[str, ...] | None
"""A set of category prefixes; ``None`` is no limit, ``()`` is nothing at all, ``""`` inside covers everything."""


def is_name(text: object) -> bool:
    """Whether ``text`` may name a user, device, item, message or session."""
    return isinstance(text, str) and NAME.match(text) is not None


def is_dotted(text: object) -> bool:
    """Whether ``text`` may be a category or an external system."""
    return isinstance(text, str) and len(text) <= MAX_DOTTED_LENGTH and _is_dotted(text)


@lru_cache(4_096)  # a deployment has few categories, and each message names some
def _is_dotted(text: str) -> bool:
    return DOTTED.match(text) is not None


def normalize_prefix(text: object) -> str | None:
    """A category prefix in its one form (no trailing dot; ``""`` is everything), or ``None`` if it is no prefix."""
    if text == "":
        return ""
    if not isinstance(text, str):
        return None
    bare = text[:-1] if text.endswith(".") else text
    return bare if is_dotted(bare) else None


def covers(prefix: str, name: str) -> bool:
    """Whether the category or prefix ``name`` lies wholly under ``prefix``; whole segments only."""
    return not prefix or name == prefix or (name.startswith(prefix) and name[len(prefix)] == ".")


def is_allowed(prefixes: Prefixes, name: str) -> bool:
    """Whether the category or prefix ``name`` lies wholly under one of ``prefixes``."""
    return prefixes is None or any(covers(prefix, name) for prefix in prefixes)


def normalize_prefixes(prefixes: Iterable[str]) -> Prefixes:
    """The smallest sorted set that covers the same categories; ``None`` where it covers everything.

    Time grows with their number, not its square: a token may name thousands.
    """
    given = set(prefixes)
    if "" in given:
        return None
    return tuple(prefix for prefix in sorted(given) if given.isdisjoint(prefixes_of(prefix)[1:-1]))


def intersect(left: Prefixes, right: Prefixes) -> Prefixes:
    """The categories that both sets cover (a token's limits and a reader's filter)."""
    if left is None:
        return right
    if right is None:
        return left
    return normalize_prefixes(
        narrow for a in left for b in right for narrow in ((b,) if covers(a, b) else (a,) if covers(b, a) else ())
    )


def prefixes_of(category: str) -> list[str]:
    """Every prefix that covers ``category``, the widest (``""``) first."""
    parts = category.split(".")
    return ["", *(".".join(parts[: i + 1]) for i in range(len(parts)))]
