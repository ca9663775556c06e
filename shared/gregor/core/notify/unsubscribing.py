"""PURE. Unsubscribing from e-mails: an objection of the recipient, which always holds.

Each category of a link gets its own entry in the preferences. A user has at most ``MAX_PREFERENCES`` of them. If
they are full, entries without an effect are dropped. If that is not enough, one wider prefix replaces many entries.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Final

from gregor.core.ids import prefixes_of

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
        _turn_off(by_prefix, _widest_needed(by_prefix, excess))
        by_prefix = _without_redundant(by_prefix)
    if _excess(by_prefix) > 0:
        # Entries that allow e-mails separate those that end them. The objections count more.
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
    """Return the preferences without the ends of e-mails that a shorter prefix implies, and without empty entries."""
    kept: _ByPrefix = {}
    for prefix, channels in by_prefix.items():
        is_implied = channels.get("email") is False and _inherited(by_prefix, prefix) is False
        left = {name: value for name, value in channels.items() if not (is_implied and name == "email")}
        if left:
            kept[prefix] = left
    return kept


def _inherited(by_prefix: _ByPrefix, prefix: str) -> bool | None:
    """Return the e-mail preference of the longest shorter prefix that has one."""
    values = (by_prefix.get(shorter, {}).get("email") for shorter in _shorter(prefix))
    return next((value for value in values if value is not None), None)


def _widest_needed(by_prefix: _ByPrefix, excess: int) -> str:
    """Return the longest prefix that replaces ``ROOM`` entries, or else ``excess``; else ``*``."""
    replaced: Counter[str] = Counter()
    for prefix, channels in by_prefix.items():
        if channels == _ONLY_MAIL_OFF:
            for shorter in _shorter(prefix):
                replaced[shorter] += 1
                # It decides for the entry. A still shorter prefix would not replace both.
                if "email" in by_prefix.get(shorter, {}):
                    break
    gains = {
        prefix: count - (prefix not in by_prefix and prefix != ALL_CATEGORIES) for prefix, count in replaced.items()
    }
    for enough in (max(ROOM, excess), excess):
        if found := [prefix for prefix, gain in gains.items() if gain >= enough]:
            return max(found, key=lambda prefix: (_depth(prefix), gains[prefix]))
    return ALL_CATEGORIES


def _shorter(prefix: str) -> list[str]:
    """Return the prefixes that cover a prefix, the longest first, without itself."""
    if prefix == ALL_CATEGORIES:
        return []
    return [each or ALL_CATEGORIES for each in reversed(prefixes_of(prefix)[:-1])]


def _depth(prefix: str) -> int:
    return 0 if prefix == ALL_CATEGORIES else 1 + prefix.count(".")
