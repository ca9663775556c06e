"""PURE. Unsubscribing from e-mails: an objection of the recipient, which always holds.

Each category of a link gets its own entry in the preferences. A user has at most ``MAX_PREFERENCES`` of them. If
they are full, entries without an effect are dropped. If that is not enough, one wider prefix replaces many entries.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from itertools import takewhile
from types import MappingProxyType
from typing import Final

from .contact import ALL_CATEGORIES, MAX_PREFERENCES, Preferences, count_preferences

ROOM: Final = 100
"""Entries that a wider prefix should replace at least: then there is room for later changes, too."""
_ONLY_MAIL_OFF: Final = {"email": False}
_ByPrefix = dict[str, dict[str, bool]]


def without_email(preferences: Preferences, categories: Iterable[str]) -> Preferences:
    """Return the preferences without e-mail for these categories, or without any (``*``).

    If they would have more than ``MAX_PREFERENCES`` entries, a wider prefix replaces some: more categories end then.
    """
    by_prefix = {prefix: dict(channels) for prefix, channels in preferences.by_prefix.items()}
    for category in categories:
        _turn_off(by_prefix, category)
    if _excess(by_prefix) > 0:
        by_prefix = _without_redundant(by_prefix)
    if (excess := _excess(by_prefix)) > 0:
        _turn_off(by_prefix, _longest_sufficient(by_prefix, excess))
        by_prefix = _without_redundant(by_prefix)
    if _excess(by_prefix) > 0:
        # Entries that allow e-mails are between those that end them, so no prefix saves enough. Objections count more.
        _turn_off(by_prefix, ALL_CATEGORIES)
        by_prefix = _without_redundant(by_prefix)
    return Preferences(MappingProxyType(by_prefix))


def _turn_off(by_prefix: _ByPrefix, category: str) -> None:
    by_prefix.setdefault(category, {})["email"] = False
    if category == ALL_CATEGORIES:
        for channels in by_prefix.values():
            if "email" in channels:
                channels["email"] = False


def _excess(by_prefix: Mapping[str, object]) -> int:
    return count_preferences(by_prefix) - MAX_PREFERENCES


def _without_redundant(by_prefix: _ByPrefix) -> _ByPrefix:
    """Return the preferences without ``email: false`` if a shorter prefix implies it, and without empty entries."""
    deciders = _deciders(by_prefix)
    kept: _ByPrefix = {}
    for prefix, channels in by_prefix.items():
        inherited = by_prefix.get(deciders[prefix], {}).get("email") if prefix != ALL_CATEGORIES else None
        is_implied = channels.get("email") is False and inherited is False
        left = {name: value for name, value in channels.items() if not (is_implied and name == "email")}
        if left:
            kept[prefix] = left
    return kept


def _deciders(by_prefix: _ByPrefix) -> dict[str, str]:
    """Return for each prefix the longest shorter prefix that has an e-mail preference, or else ``*``.

    The keys are sorted by segments, so a prefix follows its shorter prefixes. These need not be built: there may be 63.
    """
    deciders: dict[str, str] = {}
    open_prefixes: list[str] = []
    for prefix in sorted(by_prefix, key=_segments):
        while open_prefixes and not prefix.startswith(open_prefixes[-1] + "."):
            open_prefixes.pop()
        deciders[prefix] = open_prefixes[-1] if open_prefixes else ALL_CATEGORIES
        if "email" in by_prefix[prefix] and prefix != ALL_CATEGORIES:
            open_prefixes.append(prefix)
    return deciders


def _longest_sufficient(by_prefix: _ByPrefix, excess: int) -> str:
    """Return the longest prefix that saves ``ROOM`` entries, or else ``excess`` entries, or else ``*``.

    It replaces one entry more than it saves, because it is an entry itself.
    """
    # A prefix replaces only entries with the same decider as itself. These are sorted by segments.
    groups: defaultdict[str, list[list[str]]] = defaultdict(list)
    for prefix, decider in _deciders(by_prefix).items():
        if by_prefix[prefix] == _ONLY_MAIL_OFF and prefix != ALL_CATEGORIES:
            groups[decider].append(_segments(prefix))
    for enough in (max(ROOM, excess), excess):
        found: list[str] = []
        for group in groups.values():
            for first, last in zip(group, group[enough:], strict=False):
                common = _common(first, last)
                if len(common) > len(found):
                    found = common
        if found:
            return ".".join(found)
    return ALL_CATEGORIES


def _segments(prefix: str) -> list[str]:
    return prefix.split(".")


def _common(first: list[str], last: list[str]) -> list[str]:
    """Return the segments with which both begin, and so all that are sorted between them."""
    same = takewhile(lambda pair: pair[0] == pair[1], zip(first, last, strict=False))
    return [segment for segment, _ in same]
