"""Policies of categories (notification types), and how a category finds its own (docs/reference/categories.md).

A category's policy combines the entries along its dotted prefix, field by field; the nearest entry wins. ``""`` is the
root. ``parse`` makes ``CategoryPolicies`` from a document. Times are in microseconds.
"""

from __future__ import annotations

import re
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final, Literal

from gregor.core.ids import Prefixes, covers, intersect, prefixes_of
from gregor.core.limits import SECOND_US
from gregor.core.times import MAX_TIME_US

from .body_schema import BodySchema

DEFAULT_PUSH_AFTER_US: Final = 10 * SECOND_US
"""Default delay of a push: in this time a device may show the item itself."""
DEFAULT_EMAIL_AFTER_US: Final = 15 * 60 * SECOND_US
"""Default delay of an e-mail."""
DEFAULT_EMAIL_SUBJECT: Final = "{{ title }}"
"""Default subject of an e-mail."""
DEFAULT_SAMPLES: Final = 20
"""Default number of samples in a summary."""

Unless = Literal["foreground", "online", "acked"]

_TAG: Final = re.compile(r"[A-Za-z0-9_-]{1,35}\Z")
_MAX_CACHED: Final = 10_000  # categories whose policy was looked up: more than any deployment names


# ---- settings of a category


@dataclass(frozen=True, slots=True)
class PushPolicy:
    """A push, ``after_us`` after the creation, to devices that have not shown the item.

    ``sound``: a name that the app knows.
    """

    after_us: int = DEFAULT_PUSH_AFTER_US
    sound: str | None = None


@dataclass(frozen=True, slots=True)
class EmailPolicy:
    """An e-mail, ``after_us`` after the creation, unless a device was present in that time (``unless`` says how)."""

    after_us: int = DEFAULT_EMAIL_AFTER_US
    unless: Unless = "foreground"
    subject: str = DEFAULT_EMAIL_SUBJECT
    html: str | None = None


@dataclass(frozen=True, slots=True)
class AggregationPolicy:
    """A window, at whose end at least ``at_least`` live items become one summary with the ``keep`` newest of them."""

    window_us: int
    at_least: int
    title: str | None = None
    keep: int = DEFAULT_SAMPLES


@dataclass(frozen=True, slots=True)
class CategoryTexts:
    """The templates of one language, as written: the fields that a translation may set."""

    title: str | None = None
    text: str | None = None
    link: str | None = None
    subject: str = DEFAULT_EMAIL_SUBJECT
    html: str | None = None
    summary: str | None = None


@dataclass(frozen=True, slots=True)
class CategoryPolicy:
    """All settings of a category. The defaults are those of a category without an entry: state without deliveries.

    ``push`` and ``email`` are None if the channel is not configured, or if the title is missing: then nothing is sent.
    ``locales``: the complete texts of each language, by its tag in lower case.
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
    devices_may_create: bool = True
    aggregate: AggregationPolicy | None = None
    body_schema: BodySchema | None = None
    locales: Mapping[str, CategoryTexts] = field(default_factory=lambda: MappingProxyType({}), hash=False)

    def expires_us(self, created_us: int) -> int | None:
        """Return the default expiry of an item; None if there is none, or if it is beyond the last valid time."""
        if self.expires_after_us is None or created_us + self.expires_after_us > MAX_TIME_US:
            return None
        return created_us + self.expires_after_us

    def remind_at_us(self, created_us: int) -> tuple[int, ...]:
        """Return the default reminders of an item, without those beyond the last valid time."""
        if not self.remind_after_us:
            return ()
        return tuple(created_us + each for each in self.remind_after_us if created_us + each <= MAX_TIME_US)

    @property
    def is_timed(self) -> bool:
        """Whether a creation has timers other than its expiry and reminders."""
        return self.push is not None or self.email is not None or self.aggregate is not None

    @property
    def texts(self) -> CategoryTexts:
        """The templates in the entry's own language."""
        subject, html = (
            (self.email.subject, self.email.html) if self.email is not None else (DEFAULT_EMAIL_SUBJECT, None)
        )
        summary = self.aggregate.title if self.aggregate is not None else None
        return CategoryTexts(self.title, self.text, self.link, subject, html, summary)

    def texts_for(self, locale: str | None) -> CategoryTexts:
        """Return the templates for a ``locale``: for ``it-IT`` its own, else those of ``it``, else the entry's own."""
        if locale is not None and self.locales:
            tag = normalize_locale(locale)
            while tag:
                found = self.locales.get(tag)
                if found is not None:
                    return found
                tag = tag.rpartition("-")[0]
        return self.texts


DEFAULT_POLICY: Final = CategoryPolicy()
"""The policy of a category that no entry covers."""


# ---- all categories


class CategoryPolicies:
    """The policies of all entries. ``parse_categories`` makes them; ``NO_POLICIES`` has no entry.

    ``document``: name to entry, as written. ``policies``: name to the effective policy of this category and those below
    it. ``has_bounds``: whether a category limits its live items.
    """

    __slots__ = ("_found", "_policies", "_uncounted", "document", "has_bounds")

    def __init__(self, document: Mapping[str, Mapping[str, Any]], policies: Mapping[str, CategoryPolicy]) -> None:
        self.document = document
        self._policies = policies
        self._found: dict[str, CategoryPolicy] = {}
        self._uncounted = _uncounted(policies)
        self.has_bounds = any(policy.max_live is not None for policy in policies.values())

    def __bool__(self) -> bool:
        """Return whether there is an entry."""
        return bool(self._policies)

    def resolve(self, category: str) -> CategoryPolicy:
        """Return the policy of ``category``: that of the nearest entry at or above it, else ``DEFAULT_POLICY``."""
        found = self._found.get(category)
        if found is None:
            if not self._policies:
                return DEFAULT_POLICY
            found = self._find(category)
        return found

    @property
    def uncounted(self) -> tuple[str, ...]:
        """The prefixes whose items do not count in the badge: the fewest, sorted."""
        return self._uncounted

    def uncounted_within(self, limits: Prefixes) -> tuple[str, ...]:
        """Return the prefixes of ``uncounted`` within the limits of a caller, who must not learn the other names."""
        return (intersect(self._uncounted, limits) or ()) if self._uncounted else ()

    @property
    def named(self) -> Mapping[str, CategoryPolicy]:
        """The policy of each entry, by its name."""
        return self._policies

    def badge(self, counts: Mapping[str, int]) -> int:
        """Return the badge count of items, given as their number for each category."""
        uncounted = self._uncounted
        return sum(
            count for category, count in counts.items() if not any(covers(prefix, category) for prefix in uncounted)
        )

    def max_live(self, categories: Iterable[str]) -> tuple[tuple[str, int], ...]:
        """Return those of ``categories`` with a limit of live items, each once, with the limit."""
        bounded = ((category, self.resolve(category).max_live) for category in dict.fromkeys(categories))
        return tuple((category, most) for category, most in bounded if most is not None)

    def _find(self, category: str) -> CategoryPolicy:
        near = next((prefix for prefix in reversed(prefixes_of(category)) if prefix in self._policies), None)
        found = DEFAULT_POLICY if near is None else self._policies[near]
        # Categories come from messages: without a limit, a sender of random ones fills the memory.
        if len(self._found) >= _MAX_CACHED:
            self._found.clear()
        self._found[category] = found
        return found


def _uncounted(policies: Mapping[str, CategoryPolicy]) -> tuple[str, ...]:
    """Return the names of uncounted entries, without those below another one.

    Nothing below counts again: ``parse`` checks that.
    """
    names = sorted(name for name, policy in policies.items() if not policy.counts_in_badge)
    return tuple(name for name in names if not any(other != name and covers(other, name) for other in names))


# ---- languages


def normalize_locale(text: str) -> str:
    """Return a language tag for comparison: in lower case, parts joined by ``-``."""
    return text.replace("_", "-").lower()


def is_locale(text: str) -> bool:
    """Return whether ``text`` may be a reader's language. Without a translation it gets the entry's own texts."""
    return _TAG.match(text) is not None


NO_POLICIES: Final = CategoryPolicies({}, {})
"""The policies before any categories are applied."""


def no_entry_text(category: str, entries: Container[str]) -> str:
    """Return a sentence for a category without an entry: where its settings come from."""
    nearest = next((prefix for prefix in reversed(prefixes_of(category)) if prefix in entries), None)
    source = "has the defaults" if nearest is None else f'inherits from "{nearest}"'
    return f'"{category}" has no entry; it {source}'
