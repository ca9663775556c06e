"""Files of notification types: TOML, or JSON with the same names. ``file:`` texts are replaced by their content."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from gregor.core.categories.parse import parse_categories
from gregor.core.categories.policy import NO_POLICIES, CategoryPolicies
from gregor.core.errors import FieldError, Problem
from gregor.core.json_text import decode_json, pointer_to
from gregor.core.limits import Limits
from gregor.rendering.renderer import check_templates
from gregor.store.contract.store import Categories

_FILE_PREFIX: Final = "file:"
_MAX_BYTES: Final = 1_048_576


def read_checked(document: Any) -> CategoryPolicies:
    """Parse ``document`` and try its templates. Raises ``Problem`` ``schema`` with every error.

    If only a number cannot be represented in JSON, the code is ``number_out_of_range``.
    """
    faults: list[FieldError] = []
    entries = NO_POLICIES
    try:
        entries = parse_categories(document)
    except Problem as problem:
        faults += problem.errors
    faults += check_templates(document)
    _raise_if_any(faults)
    # TOML integers can exceed the range of JSON. Dates and infinities were refused above.
    decode_json(json.dumps(document).encode(), Limits())
    return entries


def check_file(path: Path) -> list[FieldError]:
    """Return every error of a file; none if it can be applied. Raises ``Problem`` if the file cannot be parsed."""
    faults: list[FieldError] = []
    document = _resolve_texts(_document(path), (), path.parent, faults)
    try:
        read_checked(document)
    except Problem as problem:
        # Errors of a missing ``file:`` text are already in the list.
        reported = {fault.pointer for fault in faults}
        faults += [fault for fault in problem.errors if fault.pointer not in reported]
    return faults


def silent_reminders(document: Mapping[str, Any]) -> list[FieldError]:
    """Return a warning for each reminder that never fires, because its item expires before. ``document`` is valid."""
    warnings = []
    for name, policy in parse_categories(document).named.items():
        end_us = policy.expires_after_us
        # An entry that only inherits both fields is reported at its parent.
        written = [field for field in ("remind_after", "expires_after") if document[name].get(field) is not None]
        if end_us is not None and written and any(delay_us >= end_us for delay_us in policy.remind_after_us):
            detail = "This reminder never fires: it is due at or after expires_after. Choose an earlier reminder."
            warnings.append(FieldError(pointer_to((name, written[0])), detail))
    return warnings


def read_file(path: Path) -> dict[str, Any]:
    """Return the document of a file with its ``file:`` texts resolved. Raises ``Problem`` with every error.

    A path is relative to the file and inside its directory: ``html = "file:joined.html"``.
    """
    document = _document(path)
    faults: list[FieldError] = []
    resolved = _resolve_texts(document, (), path.parent, faults)
    _raise_if_any(faults)
    if not isinstance(resolved, dict):
        raise Problem("schema", f"{path} must contain a table of entries.")
    return resolved


def _document(path: Path) -> Any:
    try:
        text = _read_text(path)
        if path.suffix == ".json":
            return decode_json(text.encode(), Limits())
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise Problem("schema", f"{path} is not valid TOML: {error}.") from None
    except Problem as problem:
        raise Problem("schema", f"{path} is not valid JSON: {problem.detail}") from None
    except RecursionError:
        raise _too_deep(path) from None
    except (OSError, ValueError) as error:
        raise Problem("schema", f"{path} cannot be read: {_reason(error)}.") from None
    if _nesting(document) > Limits().nesting:
        raise _too_deep(path)
    return document


def _too_deep(path: Path) -> Problem:
    return Problem("schema", f"{path} is nested too deeply: write at most {Limits().nesting} levels.")


def _nesting(document: Any) -> int:
    """Return the number of levels of tables and arrays."""
    # ``tomllib`` accepts dotted keys of any depth.
    levels, level = 0, [document]
    while level := [each for each in level if isinstance(each, dict | list)]:
        levels += 1
        level = [member for each in level for member in (each.values() if isinstance(each, dict) else each)]
    return levels


def _resolve_texts(value: Any, path: tuple[str, ...], folder: Path, faults: list[FieldError]) -> Any:
    """Replace each ``file:`` path in the ``html`` of an e-mail by the content of that file."""
    if isinstance(value, dict):
        return {name: _resolve_texts(member, (*path, name), folder, faults) for name, member in value.items()}
    if not isinstance(value, str) or not value.startswith(_FILE_PREFIX) or path[-2:] != ("email", "html"):
        return value
    named = value.removeprefix(_FILE_PREFIX).strip()
    text_path = (folder / named).resolve()
    # Without this check, `file:/etc/passwd` in an uploaded set would show the server's files to its author.
    if not text_path.is_relative_to(folder.resolve()):
        faults.append(FieldError(pointer_to(path), f"{named} is outside the directory of the file, {folder}."))
        return value
    try:
        return _read_text(text_path)
    except (OSError, ValueError) as error:
        faults.append(FieldError(pointer_to(path), f"{named} cannot be read: {_reason(error)} ({text_path})."))
        return value


def _read_text(path: Path) -> str:
    with path.open("rb") as file:
        raw = file.read(_MAX_BYTES + 1)
    if len(raw) > _MAX_BYTES:
        raise ValueError(f"it is larger than {_MAX_BYTES} bytes")
    return raw.decode("utf-8-sig")  # editors on Windows write a byte order mark


def _reason(error: Exception) -> str:
    if isinstance(error, OSError):
        return error.strerror or type(error).__name__
    return "it is not UTF-8" if isinstance(error, UnicodeDecodeError) else str(error)


def _raise_if_any(faults: Sequence[FieldError]) -> None:
    if faults:
        raise Problem("schema", f"{faults[0].pointer or 'The document'}: {faults[0].detail}", tuple(faults))


async def apply_initial_file(categories: Categories, path: Path, now_us: int) -> None:
    """Apply the file of the setting CATEGORIES, unless some set was applied before. Raises ``Problem``."""
    if await categories.version() == 0:
        await categories.apply(initial_entries(path), now_us, expected=0)


def initial_entries(path: Path) -> dict[str, Any]:
    """Return the checked entries of the file of the setting CATEGORIES. Raises ``Problem`` if they are invalid."""
    document = read_file(path)
    read_checked(document)
    return document
