"""What a notification type means: policies, and how a category finds its own (architecture.md §8).

An ``Entries`` is a whole set of entries, parsed and checked by ``core.entries``. A category's policy is what the
entries along its dotted prefix say together, the nearest one winning field by field; ``""`` is the root. Times are in
microseconds.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final, Literal

from gregor.core.ids import covers, prefixes_of
from gregor.core.limits import SECOND_US
from gregor.core.times import MAX_TIME_US

from .body_schema import BodySchema

DEFAULT_PUSH_AFTER_US: Final = 10 * SECOND_US
"""The grace in which a device may show an item itself before a push goes out, where the entry names none."""
DEFAULT_EMAIL_AFTER_US: Final = 15 * 60 * SECOND_US
"""How long a mail waits, where the entry does not say."""
DEFAULT_EMAIL_SUBJECT: Final = "{{ title }}"
"""The subject of a mail, where the entry has none."""
DEFAULT_SAMPLES: Final = 20
"""Samples that a summary keeps, where the entry does not say."""

Unless = Literal["foreground", "online", "acked"]

_TAG: Final = re.compile(r"[A-Za-z0-9_-]{1,35}\Z")
_MAX_CACHED: Final = 10_000  # categories whose policy was looked up: more than any deployment names


@dataclass(frozen=True, slots=True)
class PushPolicy:
    """Push to devices that have not shown the item ``after_us`` from its creation. ``sound``: as the app names it."""

    after_us: int = DEFAULT_PUSH_AFTER_US
    sound: str | None = None


@dataclass(frozen=True, slots=True)
class EmailPolicy:
    """Mail ``after_us`` from the creation, unless a device was there in that time, as ``unless`` says."""

    after_us: int = DEFAULT_EMAIL_AFTER_US
    unless: Unless = "foreground"
    subject: str = DEFAULT_EMAIL_SUBJECT
    html: str | None = None


@dataclass(frozen=True, slots=True)
class AggregationPolicy:
    """At least ``at_least`` items live at the end of a window become one, which keeps the ``keep`` newest of them."""

    window_us: int
    at_least: int
    title: str | None = None
    keep: int = DEFAULT_SAMPLES


@dataclass(frozen=True, slots=True)
class CategoryTexts:
    """The templates of one language, as written: what a locale may say otherwise than the entry."""

    title: str | None = None
    text: str | None = None
    link: str | None = None
    subject: str = DEFAULT_EMAIL_SUBJECT
    html: str | None = None
    summary: str | None = None


@dataclass(frozen=True, slots=True)
class CategoryPolicy:
    """All that is said of a category. The defaults are those of a category without any entry: plain state.

    ``push`` and ``email`` are ``None`` where the channel was not asked for, and where there is no title: what has no
    words is sent nowhere. ``locales``: the texts of each language, complete, by its tag in small letters.
    """

    title: str | None = None
    text: str | None = None
    link: str | None = None
    collapse: str | None = None
    expires_after_us: int | None = None
    remind_after_us: tuple[int, ...] = ()
    counts_in_badge: bool = True
    max_live: int | None = None
    push: PushPolicy | None = None
    email: EmailPolicy | None = None
    urgent: bool = False
    aggregate: AggregationPolicy | None = None
    body_schema: BodySchema | None = None
    locales: Mapping[str, CategoryTexts] = field(default_factory=lambda: MappingProxyType({}), hash=False)

    def expires_us(self, created_us: int) -> int | None:
        """When an item expires whose sender did not say; never where that is beyond the last time."""
        if self.expires_after_us is None or created_us + self.expires_after_us > MAX_TIME_US:
            return None
        return created_us + self.expires_after_us

    def remind_at_us(self, created_us: int) -> tuple[int, ...]:
        """When the reminders of an item are, whose sender named none: those that lie before the last time."""
        if not self.remind_after_us:
            return ()
        return tuple(created_us + each for each in self.remind_after_us if created_us + each <= MAX_TIME_US)

    @property
    def is_timed(self) -> bool:
        """Whether a creation asks for work at a time, beside its expiry and reminders."""
        return self.push is not None or self.email is not None or self.aggregate is not None

    @property
    def texts(self) -> CategoryTexts:
        """The templates of the entry's own language."""
        subject, html = (
            (self.email.subject, self.email.html) if self.email is not None else (DEFAULT_EMAIL_SUBJECT, None)
        )
        summary = self.aggregate.title if self.aggregate is not None else None
        return CategoryTexts(self.title, self.text, self.link, subject, html, summary)

    def texts_for(self, locale: str | None) -> CategoryTexts:
        """The templates for a reader of ``locale``: of ``it-IT``, else of ``it``, else those of the entry itself."""
        if locale is not None and self.locales:
            tag = normalize_locale(locale)
            while tag:
                found = self.locales.get(tag)
                if found is not None:
                    return found
                tag = tag.rpartition("-")[0]
        return self.texts


DEFAULT_POLICY: Final = CategoryPolicy()
"""The policy of a category that no entry speaks of."""


class CategoryPolicies:
    """A checked set of entries. ``core.entries.parse_entries`` makes it; ``NO_ENTRIES`` is the one without any.

    ``document``: name to entry, as written. ``policies``: name to what holds from there downwards. ``has_bounds``:
    whether only so many items of any category may live.
    """

    __slots__ = ("_found", "_policies", "_uncounted", "document", "has_bounds")

    def __init__(self, document: Mapping[str, Mapping[str, Any]], policies: Mapping[str, CategoryPolicy]) -> None:
        self.document = document
        self._policies = policies
        self._found: dict[str, CategoryPolicy] = {}
        self._uncounted = _uncounted(policies)
        self.has_bounds = any(policy.max_live is not None for policy in policies.values())

    def __bool__(self) -> bool:
        """Whether there is any entry."""
        return bool(self._policies)

    def resolve(self, category: str) -> CategoryPolicy:
        """What holds for ``category``: the policy of the nearest entry at or above it, ``PLAIN`` without one."""
        found = self._found.get(category)
        if found is None:
            if not self._policies:
                return DEFAULT_POLICY
            found = self._look_up(category)
        return found

    @property
    def uncounted(self) -> tuple[str, ...]:
        """The prefixes whose items do not count in the badge: the fewest, sorted."""
        return self._uncounted

    @property
    def named(self) -> Mapping[str, CategoryPolicy]:
        """The policy at each entry, by its name."""
        return self._policies

    def badge(self, counts: Mapping[str, int]) -> int:
        """How many of so many items of each category count in the badge."""
        uncounted = self._uncounted
        return sum(
            count for category, count in counts.items() if not any(covers(prefix, category) for prefix in uncounted)
        )

    def max_live(self, categories: Iterable[str]) -> tuple[tuple[str, int], ...]:
        """Those of ``categories`` of which only so many may live, each once, with the number."""
        bounded = ((category, self.resolve(category).max_live) for category in dict.fromkeys(categories))
        return tuple((category, most) for category, most in bounded if most is not None)

    def _look_up(self, category: str) -> CategoryPolicy:
        near = next((prefix for prefix in reversed(prefixes_of(category)) if prefix in self._policies), None)
        found = DEFAULT_POLICY if near is None else self._policies[near]
        if len(self._found) >= _MAX_CACHED:
            self._found.clear()
        self._found[category] = found
        return found


def _uncounted(policies: Mapping[str, CategoryPolicy]) -> tuple[str, ...]:
    """Names whose items do not count, without those below another of them: nothing below counts again (checked)."""
    names = sorted(name for name, policy in policies.items() if not policy.counts_in_badge)
    return tuple(name for name in names if not any(other != name and covers(other, name) for other in names))


def normalize_locale(text: str) -> str:
    """A language tag in the form it is compared in: small letters, parts joined by ``-``."""
    return text.replace("_", "-").lower()


def is_locale(text: str) -> bool:
    """Whether ``text`` may name the language that a reader asks for; one that no entry has is the entries' own."""
    return _TAG.match(text) is not None


NO_POLICIES: Final = CategoryPolicies({}, {})
"""What holds where nothing was applied."""
