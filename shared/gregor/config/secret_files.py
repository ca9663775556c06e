"""Secrets in files: `GREGOR_TOKEN_SECRET_FILE` names a file with the value of `GREGOR_TOKEN_SECRET`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

SECRET_FIELDS: Final = ("redis_url", "queue_url", "token_secret", "token_jwks", "smtp_url", "link_secret")
"""Settings whose value may be in a file. The setting of the file has the suffix `_file`."""
SEVERAL_SECRETS: Final = frozenset({"token_secret", "link_secret"})
"""Settings of which a file may hold several values for a rotation, one a line; the first one signs."""
MAX_FILE_BYTES: Final = 65_536
_LINE_END: Final = re.compile(r"\r?\n")
_READABLE_BY_OTHERS: Final = 0o004
_BYTE_ORDER_MARK: Final = "\ufeff"
_CHARACTER_NAMES: Final = {" ": "a space", "\t": "a tab", _BYTE_ORDER_MARK: "a byte order mark (BOM)"}


def secret_lines(text: str) -> tuple[str, ...]:
    """Return the secrets of a text, one a line. Blank lines are left out; spaces belong to a secret."""
    return tuple(line for line in _LINE_END.split(text) if line.strip())


def read_secret_file(field: str, path: Path) -> str:
    """Return the value of a setting from its file. Raises `ValueError`, without the content, if it is unusable."""
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_FILE_BYTES + 1)
        found = secret_lines(raw.decode())
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}; check its path and permissions") from None
    except UnicodeDecodeError:
        raise ValueError(f"{path} is not a text file in UTF-8") from None
    if not found:
        raise ValueError(f"{path} is empty; write the value of the setting into it")
    if len(raw) > MAX_FILE_BYTES:
        raise ValueError(f"{path} is larger than {MAX_FILE_BYTES} bytes; it must contain only the value of the setting")
    if field not in SEVERAL_SECRETS and len(found) > 1:
        raise ValueError(f"{path} has several lines; it must contain only the value of the setting")
    if field == "token_jwks" and found[0].lstrip().startswith("{"):
        raise ValueError(f"{path} contains keys, not their URL; set GREGOR_TOKEN_JWKS to the path of this file")
    if character := _invisible_character(found):
        raise ValueError(
            f"{path} has {character} before or after a secret; remove it, or every use of the secret fails"
        )
    return "\n".join(found)


def _invisible_character(secrets: tuple[str, ...]) -> str | None:
    """Return the name of a white space or byte order mark at an end of a secret: editors add them, and hide them."""
    for secret in secrets:
        for end in (secret[0], secret[-1]):
            if end.isspace() or end == _BYTE_ORDER_MARK:
                return _CHARACTER_NAMES.get(end, f"U+{ord(end):04X}")
    return None


def given_twice(source: Mapping[str, Any]) -> list[str]:
    """Return the settings that one source has both as a value and as a file."""
    return [field for field in SECRET_FIELDS if field in source and f"{field}_file" in source]


def merge_sources(file: Mapping[str, Any], variables: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of both sources. A variable also overrides the other form of its setting in the TOML file."""
    merged = {**file, **variables}
    for field in SECRET_FIELDS:
        if field in variables:
            merged.pop(f"{field}_file", None)
        elif f"{field}_file" in variables:
            merged.pop(field, None)
    return merged


def override_variables(environ: Mapping[str, str], values: Mapping[str, str | None]) -> dict[str, str]:
    """Return an environment with those `values` that are not `None`, and without files of the same settings."""
    chosen = {name: value for name, value in values.items() if value is not None}
    files = {f"{name}_FILE" for name in chosen} & {f"GREGOR_{field}_FILE".upper() for field in SECRET_FIELDS}
    return {name: value for name, value in environ.items() if name not in files} | chosen


def is_readable_by_others(path: Path) -> bool:
    """Return whether every account of this machine can read a file."""
    try:
        return bool(path.stat().st_mode & _READABLE_BY_OTHERS)
    except OSError:
        return False
