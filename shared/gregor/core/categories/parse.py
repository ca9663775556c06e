"""Parser of the categories: TOML or JSON as a plain dict. All errors are reported at once.

An entry inherits field by field from the entries above it along the dotted prefix; ``""`` is the root. Within
``push``, ``email`` and ``aggregate`` it inherits field by field, too. A missing (or null) field is inherited.
``false`` removes an inherited value, a channel as well as a text; entries below start without it. A translation
belongs to its text: an entry that sets a text inherits no translations of the text above.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any, Final

from gregor.core.ids import covers, is_dotted, prefixes_of
from gregor.core.json_text import escape_pointer
from gregor.core.limits import MIB
from gregor.core.validation import ValidationErrors

from .body_schema import BodySchema
from .fields import CATEGORY_FIELDS, read_table
from .policy import (
    DEFAULT_EMAIL_SUBJECT,
    AggregationPolicy,
    CategoryPolicies,
    CategoryPolicy,
    CategoryTexts,
    EmailPolicy,
    PushPolicy,
)

MAX_CATEGORIES: Final = 1_000
MAX_SET_PATTERNS: Final = 2_000
"""Different patterns of all schemas: 0.1 to 0.4 ms for each, whenever a process loads the set."""
MAX_SET_PATTERN_BYTES: Final = 8 * MIB
"""Size of all these patterns, compiled."""
MAX_CATEGORY_ERRORS: Final = 100
"""Errors in one response."""

_TABLES: Final = ("push", "email", "aggregate")
_EXAMPLE: Final = '["invoice.due"]'

_Parsed = dict[str, Any]


def parse_categories(document: Any) -> CategoryPolicies:
    """Return the policies of ``document``: name to entry.

    Raises ``Problem`` ``schema`` with all errors and their fixes.

    ``gregor.rendering`` compiles the templates.
    """
    errors = ValidationErrors("schema", MAX_CATEGORY_ERRORS)
    parsed = _read_all(document, errors)
    merged: dict[str, _Parsed] = {}
    for name in sorted(parsed):
        above = next((merged[prefix] for prefix in reversed(prefixes_of(name)[:-1]) if prefix in merged), {})
        merged[name] = _inherit(above if name else {}, parsed[name])
        _check_whole(name, parsed[name], above if name else {}, merged[name], errors)
    _check_titles(parsed, merged, errors)
    errors.raise_if_any()
    return CategoryPolicies(document, {name: _policy(whole) for name, whole in merged.items()})


# ---- reading


def _read_all(document: Any, errors: ValidationErrors) -> dict[str, _Parsed]:
    if not isinstance(document, Mapping):
        errors.add("schema", "", f"Categories must be a table of entries, such as {_EXAMPLE}.")
        return {}
    if len(document) > MAX_CATEGORIES:
        errors.add("schema", "", f"There are {len(document)} entries; at most {MAX_CATEGORIES} are allowed.")
        return {}
    parsed = {}
    sizes: list[int] = []
    for name, entry in document.items():
        at = "/" + escape_pointer(name)
        if not isinstance(entry, Mapping):
            detail = f"An entry must be a table: put {_EXAMPLE}, the category in quotes, above its fields."
            errors.add("schema", at, detail)
            continue
        if name and not is_dotted(name):
            errors.add("schema", at, _bad_name(name))
        parsed[name] = read_table(entry, CATEGORY_FIELDS, at, errors, name)
        schema = parsed[name].get("body_schema")
        if isinstance(schema, BodySchema):
            sizes += schema.compiled_sizes
            if len(sizes) > MAX_SET_PATTERNS or sum(sizes) > MAX_SET_PATTERN_BYTES:
                limits = f"{MAX_SET_PATTERNS} patterns, or {MAX_SET_PATTERN_BYTES // MIB} MiB of them when compiled"
                errors.add("schema", f"{at}/body_schema", f"The schemas up to this one have more than {limits}.")
                break
    return parsed


def _bad_name(name: str) -> str:
    bare = name.removesuffix("*").rstrip(".")
    if bare != name and (not bare or is_dotted(bare)):
        return f'This is not a category; write "{bare}", which covers all categories below it.'
    return 'This must be a category: dotted segments of A-Z a-z 0-9 _ -, such as "invoice.due", or "" for all.'


# ---- inheritance


def _inherit(above: _Parsed, own: _Parsed) -> _Parsed:
    """Return the effective fields of an entry: its own over those from above."""
    whole = dict(above)
    for name, value in own.items():
        if name in _TABLES and value is not False:
            base = above.get(name)
            whole[name] = {**(base if isinstance(base, dict) else {}), **value}
        elif name != "locales":
            whole[name] = value
    renewed = _texts_of(own).keys()
    locales: dict[str, _Parsed] = {}
    for tag, texts in above.get("locales", {}).items():
        locales[tag] = {name: text for name, text in texts.items() if name not in renewed}
    for tag, table in own.get("locales", {}).items():
        locales[tag] = {**locales.get(tag, {}), **_texts_of(table)}
    whole["locales"] = locales
    return whole


def _texts_of(table: _Parsed) -> _Parsed:
    """Return the templates that an entry or one of its languages sets, by the names of ``CategoryTexts``."""
    texts: _Parsed = {name: table[name] for name in ("title", "text", "link") if name in table}
    for place, field, name in (
        ("email", "subject", "subject"),
        ("email", "html", "html"),
        ("aggregate", "title", "summary"),
    ):
        inner = table.get(place)
        if isinstance(inner, dict) and field in inner:
            texts[name] = inner[field]
    return texts


# ---- checks across entries


def _check_whole(name: str, own: _Parsed, above: _Parsed, whole: _Parsed, errors: ValidationErrors) -> None:
    """Check an entry together with those above it."""
    at = "/" + escape_pointer(name)
    if isinstance(own.get("aggregate"), dict) and not errors.has_error_at(at + "/aggregate"):
        missing = [field for field in ("window", "at_least") if field not in whole["aggregate"]]
        if missing:
            detail = f'{" and ".join(missing)} must be set: aggregate = {{ window = "10m", at_least = 3 }}.'
            errors.add("schema", f"{at}/aggregate", detail)
    if own.get("counts_in_badge") is True and above.get("counts_in_badge") is False:
        detail = (
            "An entry above has counts_in_badge = false, and clients apply it to all categories below. Remove it there."
        )
        errors.add("schema", f"{at}/counts_in_badge", detail)


def _check_titles(parsed: Mapping[str, _Parsed], merged: Mapping[str, _Parsed], errors: ValidationErrors) -> None:
    """Add an error for a channel without title: in the entry, in one above, or in one below.

    Entries with errors are skipped.
    """
    titled = [name for name, own in parsed.items() if own.get("title")]
    for name, own in parsed.items():
        has_title = merged[name].get("title") or any(covers(name, other) for other in titled)
        if has_title or errors.has_error_at("/" + escape_pointer(name)):
            continue
        for channel in ("push", "email"):
            if isinstance(own.get(channel), dict):
                detail = f'{channel} needs a title: give this category one, or one above or below it (title = "…").'
                errors.add("schema", f"/{escape_pointer(name)}/{channel}", detail)


# ---- policies


def _policy(whole: _Parsed) -> CategoryPolicy:
    fields: _Parsed = {name: value for name, value in whole.items() if value is not False or name in _FLAGS}
    title = fields.get("title")
    policy = CategoryPolicy(
        title=title,
        text=fields.get("text"),
        link=fields.get("link"),
        collapse=fields.get("collapse"),
        expires_after_us=fields.get("expires_after"),
        remind_after_us=fields.get("remind_after", ()),
        counts_in_badge=fields.get("counts_in_badge", True),
        max_live=fields.get("max_live"),
        push=_push(fields.get("push")) if title else None,
        email=_email(fields.get("email")) if title else None,
        urgent=fields.get("urgent", False),
        devices_may_create=fields.get("devices_may_create", True),
        aggregate=_aggregate(fields.get("aggregate")),
        body_schema=fields.get("body_schema"),
    )
    locales = fields["locales"]
    return replace(policy, locales=MappingProxyType({tag: _texts(policy.texts, locales, tag) for tag in locales}))


_FLAGS: Final[Collection[str]] = ("counts_in_badge", "urgent", "devices_may_create")


def _texts(texts: CategoryTexts, locales: Mapping[str, _Parsed], tag: str) -> CategoryTexts:
    """Return the texts of a language: its own, over those of the wider language, over those of the entry."""
    wider = tag.rpartition("-")[0]
    base = _texts(texts, locales, wider) if wider else texts
    return replace(base, **{name: text for name, text in locales.get(tag, {}).items() if text is not False})


def _push(table: _Parsed | None) -> PushPolicy | None:
    if table is None:
        return None
    return PushPolicy(table.get("after", PushPolicy().after_us), table.get("sound") or None)


def _email(table: _Parsed | None) -> EmailPolicy | None:
    if table is None:
        return None
    default, subject = EmailPolicy(), table.get("subject") or DEFAULT_EMAIL_SUBJECT
    return EmailPolicy(
        table.get("after", default.after_us), table.get("unless", default.unless), subject, table.get("html") or None
    )


def _aggregate(table: _Parsed | None) -> AggregationPolicy | None:
    if table is None or not table.get("window") or not table.get("at_least"):
        return None
    default = AggregationPolicy(0, 0)
    return AggregationPolicy(
        table["window"], table["at_least"], table.get("title") or None, table.get("keep", default.keep)
    )
