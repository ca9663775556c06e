"""The fields of a category entry: one table of their names and parsers (docs/reference/categories.md).

A parser returns the value, durations as microseconds, or ``INVALID`` after it has added an error. Null fields are
dropped before: they are inherited. ``false`` stays ``False`` if it removes an inherited value.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, Final

from gregor.core.ids import is_dotted
from gregor.core.json_text import canonical_json, escape_pointer
from gregor.core.limits import KIB, Limits
from gregor.core.times import DURATION_EXAMPLES, parse_duration
from gregor.core.validation import ValidationErrors

from .body_schema import BodySchema, SchemaError
from .policy import normalize_locale

MAX_TEMPLATE: Final = 2_000
"""Characters of a short template."""
MAX_TEXT: Final = 8_000
"""Characters of a text."""
MAX_HTML: Final = 64_000
"""Characters of the HTML of an e-mail."""
MAX_SCHEMA_BYTES: Final = 16 * KIB
"""Bytes of a schema as JSON."""
MAX_SAMPLES: Final = 100
MAX_REMINDERS: Final = Limits().reminders
MAX_LOCALES: Final = 100

INVALID: Final = object()
"""The result of a parser that has added an error."""

_LOCALE: Final = re.compile(r"[A-Za-z]{2,8}([_-][A-Za-z0-9]{1,8}){0,4}\Z")
_DURATION: Final = f"This must be a duration: a number with a unit, such as {DURATION_EXAMPLES}."

FieldReader = Callable[[Any, str, ValidationErrors], Any]
Fields = Mapping[str, FieldReader]


# ---- tables


def read_table(
    table: Mapping[str, Any], fields: Fields, at: str, errors: ValidationErrors, category: str = ""
) -> dict[str, Any]:
    """Return the valid fields of a table, parsed. ``category``: the name of the entry, if the table is one."""
    tables = [name for name in table if name not in fields and isinstance(table[name], Mapping) and category]
    for name in tables:
        whole = f"{category}.{name}"
        if is_dotted(whole):
            detail = f'Unknown field; for the category, write its name in quotes: ["{whole}"].'
            errors.add("schema", f"{at}/{escape_pointer(name)}", detail)
    errors.add_unknown_fields({name: None for name in table if name not in tables}, fields, at)
    read = {name: fields[name](table[name], f"{at}/{name}", errors) for name in table if _is_said(table, name, fields)}
    return {name: value for name, value in read.items() if value is not INVALID}


def _is_said(table: Mapping[str, Any], name: str, fields: Fields) -> bool:
    return name in fields and table[name] is not None


def _bad(errors: ValidationErrors, at: str, detail: str) -> object:
    errors.add("schema", at, detail)
    return INVALID


# ---- scalar fields


def _text(most: int, *, is_file: bool = False) -> FieldReader:
    def read(value: Any, at: str, errors: ValidationErrors) -> Any:
        if value is False:
            return False
        if not isinstance(value, str) or not value.strip():
            return _bad(errors, at, "This must be a text in quotes, or false to remove an inherited one.")
        if value.startswith("file:"):
            said = "is replaced by its content in `gregor categories apply`; through the API, send the HTML itself"
            return _bad(errors, at, f"A file: {said}." if is_file else "Only the html of an e-mail can be a file.")
        if len(value) > most:
            return _bad(errors, at, f"This has {len(value)} characters; at most {most} are allowed.")
        return value

    return read


def _flag(value: Any, at: str, errors: ValidationErrors) -> Any:
    return value if isinstance(value, bool) else _bad(errors, at, "This must be true or false, without quotes.")


def _duration(least_us: int = 0, *, is_removable: bool = False) -> FieldReader:
    def read(value: Any, at: str, errors: ValidationErrors) -> Any:
        if value is False and is_removable:
            return False
        us = parse_duration(value)
        if us is None:
            return _bad(errors, at, _DURATION)
        return us if us >= least_us else _bad(errors, at, "This must be longer than zero.")

    return read


def _durations(value: Any, at: str, errors: ValidationErrors) -> Any:
    if value is False:
        return ()
    if not isinstance(value, list | tuple):
        return _bad(errors, at, 'This must be a list of durations: ["4d"].')
    if len(value) > MAX_REMINDERS:
        return _bad(errors, at, f"This has {len(value)} reminders; at most {MAX_REMINDERS} are allowed.")
    read = [_duration(1)(each, f"{at}/{index}", errors) for index, each in enumerate(value)]
    return INVALID if INVALID in read else tuple(sorted(set(read)))


def _count(least: int, most: int, *, is_removable: bool = False) -> FieldReader:
    def read(value: Any, at: str, errors: ValidationErrors) -> Any:
        if value is False and is_removable:
            return False
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            return _bad(errors, at, f"This must be a whole number from {least} to {most}.")
        return value

    return read


def _unless(value: Any, at: str, errors: ValidationErrors) -> Any:
    if value not in ("foreground", "online", "acked"):
        return _bad(errors, at, 'This must be "foreground", "online" or "acked".')
    return value


# ---- tables and schemas


def _table(fields: Fields, *, is_removable: bool = True) -> FieldReader:
    def read(value: Any, at: str, errors: ValidationErrors) -> Any:
        if value is False and is_removable:
            return False
        name = at.rpartition("/")[2]
        if not isinstance(value, Mapping):
            removal = ", or false to remove an inherited one" if is_removable else ""
            return _bad(errors, at, f'This must be a table, {name} = {{…}} (in JSON "{name}": {{…}}){removal}.')
        return read_table(value, fields, at, errors)

    return read


def _schema(value: Any, at: str, errors: ValidationErrors) -> Any:
    if value is False:
        return False
    if not isinstance(value, Mapping):
        return _bad(errors, at, 'This must be a JSON Schema: body_schema = { type = "object", … }.')
    try:
        size = len(canonical_json(value))
    except (TypeError, ValueError):
        return _bad(errors, at, "This has a value that JSON does not support, such as a date or an infinite number.")
    if size > MAX_SCHEMA_BYTES:
        return _bad(errors, at, f"The schema has {size} bytes as JSON; at most {MAX_SCHEMA_BYTES} are allowed.")
    try:
        return BodySchema(value)
    except SchemaError as error:
        return _bad(errors, at + error.pointer, error.detail)


def _locales(value: Any, at: str, errors: ValidationErrors) -> Any:
    if not isinstance(value, Mapping):
        return _bad(errors, at, 'This must be a table of languages: locales.it.title = "…".')
    read: dict[str, Any] = {}
    for tag, table in list(value.items())[:MAX_LOCALES]:
        place = f"{at}/{escape_pointer(tag)}"
        if not _LOCALE.match(tag):
            errors.add("schema", place, 'This is not a language tag, such as "it" or "pt-BR".')
        elif not isinstance(table, Mapping):
            errors.add("schema", place, f'This must be a table of texts: locales.{tag}.title = "…".')
        elif normalize_locale(tag) in read:
            errors.add("schema", place, f"The language {normalize_locale(tag)} is there twice.")
        else:
            read[normalize_locale(tag)] = read_table(table, LOCALE_FIELDS, place, errors)
    if len(value) > MAX_LOCALES:
        errors.add("schema", at, f"This has {len(value)} languages; at most {MAX_LOCALES} are allowed.")
    return read


# ---- the table of fields


_short: Final = _text(MAX_TEMPLATE)
_html: Final = _text(MAX_HTML, is_file=True)

LOCALE_FIELDS: Final[Fields] = {
    "title": _short,
    "text": _text(MAX_TEXT),
    "link": _short,
    "email": _table({"subject": _short, "html": _html}, is_removable=False),
    "aggregate": _table({"title": _short}, is_removable=False),
}
"""The fields of a language: its texts, at the same places as in the entry."""

CATEGORY_FIELDS: Final[Fields] = {
    "title": _short,
    "text": _text(MAX_TEXT),
    "link": _short,
    "collapse": _short,
    "expires_after": _duration(1, is_removable=True),
    "remind_after": _durations,
    "counts_in_badge": _flag,
    "max_live": _count(1, 1_000_000, is_removable=True),
    "push": _table({"after": _duration(), "sound": _text(128)}),
    "email": _table({"after": _duration(), "unless": _unless, "subject": _short, "html": _html}),
    "urgent": _flag,
    "devices_may_create": _flag,
    "aggregate": _table(
        {"window": _duration(1), "at_least": _count(2, 1_000), "title": _short, "keep": _count(1, MAX_SAMPLES)}
    ),
    "body_schema": _schema,
    "locales": _locales,
}
"""All fields of an entry."""
