"""Entries of notification types from a file: TOML, or JSON with the same names; ``file:`` texts put in their place."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from gregor.core.categories.parse import parse_entries
from gregor.core.categories.policy import NO_ENTRIES, Entries
from gregor.core.errors import FieldError, Problem
from gregor.core.json_text import decode_json, pointer_to
from gregor.core.limits import Limits
from gregor.rendering.renderer import check_templates
from gregor.store.contract.store import Categories

_MARK: Final = "file:"
_MOST_BYTES: Final = 1_048_576


def read_checked(document: Any) -> Entries:
    """The entries of ``document``, templates tried. Raises ``Problem`` ``schema`` with every mistake.

    ``number_out_of_range`` where that is all that is wrong.
    """
    faults: list[FieldError] = []
    entries = NO_ENTRIES
    try:
        entries = parse_entries(document)
    except Problem as problem:
        faults += problem.errors
    faults += check_templates(document)
    _refuse(faults)
    # TOML has numbers that JSON cannot carry. What else it has (dates, infinities) was refused by now.
    decode_json(json.dumps(document).encode(), Limits())
    return entries


def check_file(path: Path) -> list[FieldError]:
    """Every mistake of a file; none where it can be applied. Raises ``Problem`` where it cannot be read at all."""
    faults: list[FieldError] = []
    document = _filled(_document(path), (), path.parent, faults)
    try:
        read_checked(document)
    except Problem as problem:
        # A file that is missing was told already, by its name.
        missing = {fault.pointer for fault in faults}
        faults += [fault for fault in problem.errors if fault.pointer not in missing]
    return faults


def silent_reminders(document: Mapping[str, Any]) -> list[FieldError]:
    """Reminders that never fire, since their items end before: no mistake, but hardly meant. ``document``: checked."""
    found = []
    for name, policy in parse_entries(document).named.items():
        end_us = policy.expires_after_us
        said = [field for field in ("remind_after", "expires_after") if document[name].get(field) is not None]
        if end_us is not None and said and any(each >= end_us for each in policy.remind_after_us):
            detail = "A reminder at or after expires_after never fires: the item has ended by then."
            found.append(FieldError(pointer_to((name, said[0])), detail))
    return found


def read_file(path: Path) -> dict[str, Any]:
    """The document of a file, with the texts of files that it names. Raises ``Problem`` with every mistake.

    A text is named relative to the file, in its directory or below: ``html = "file:joined.html"``.
    """
    document = _document(path)
    faults: list[FieldError] = []
    filled = _filled(document, (), path.parent, faults)
    _refuse(faults)
    if not isinstance(filled, dict):
        raise Problem("schema", f"{path} holds no table of entries.")
    return filled


def _document(path: Path) -> Any:
    try:
        text = _text(path)
        return decode_json(text.encode(), Limits()) if path.suffix == ".json" else tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise Problem("schema", f"{path} is no TOML: {error}.") from None
    except Problem as problem:
        raise Problem("schema", f"{path} is no JSON that is taken here: {problem.detail}") from None
    except RecursionError:
        raise Problem("schema", f"{path} is nested too deep.") from None
    except (OSError, ValueError) as error:
        raise Problem("schema", f"{path} cannot be read: {_reason(error)}.") from None


def _filled(value: Any, path: tuple[str, ...], folder: Path, faults: list[FieldError]) -> Any:
    """``value`` with the text of each file that the ``html`` of a mail names."""
    if isinstance(value, dict):
        return {name: _filled(member, (*path, name), folder, faults) for name, member in value.items()}
    if not isinstance(value, str) or not value.startswith(_MARK) or path[-2:] != ("email", "html"):
        return value
    named = value.removeprefix(_MARK).strip()
    place = (folder / named).resolve()
    if not place.is_relative_to(folder.resolve()):
        faults.append(FieldError(pointer_to(path), f"{named} is outside the directory of the entries."))
        return value
    try:
        text = _text(place)
    except (OSError, ValueError) as error:
        faults.append(FieldError(pointer_to(path), f"{named} cannot be read: {_reason(error)}."))
        return value
    return text


def _text(path: Path) -> str:
    with path.open("rb") as file:
        raw = file.read(_MOST_BYTES + 1)
    if len(raw) > _MOST_BYTES:
        raise ValueError(f"it has over {_MOST_BYTES} bytes")
    return raw.decode("utf-8")


def _reason(error: Exception) -> str:
    if isinstance(error, OSError):
        return error.strerror or type(error).__name__
    return "it is not UTF-8" if isinstance(error, UnicodeDecodeError) else str(error)


def _refuse(faults: Sequence[FieldError]) -> None:
    if faults:
        raise Problem("schema", f"{faults[0].pointer or 'The document'}: {faults[0].detail}", tuple(faults))


async def apply_first(categories: Categories, path: Path, now_us: int) -> None:
    """Apply the file of the setting CATEGORIES where no categories were ever applied. Raises ``Problem``."""
    if await categories.version() == 0:
        document = read_file(path)
        read_checked(document)
        await categories.apply(document, now_us, expected=0)
