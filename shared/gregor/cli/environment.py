"""The few settings that client commands need, read without the services: they work in a thin installation."""

import os
import tomllib
from pathlib import Path

from gregor.clock import SystemClock
from gregor.config.secret_files import read_secret_file, secret_lines

from .errors import CommandError
from .state_file import read_running
from .times import seconds_of


def setting(name: str) -> str | None:
    """Return the text of a setting, from its `GREGOR_` variable or from the TOML file that GREGOR_CONFIG names."""
    if (value := os.environ.get(f"GREGOR_{name}")) is not None:
        return value
    file = os.environ.get("GREGOR_CONFIG")
    if not file:
        return None
    try:
        found = tomllib.loads(Path(file).read_text("utf-8")).get(name.lower())
    except (OSError, ValueError, RecursionError) as error:
        raise CommandError(f"GREGOR_CONFIG: {file} cannot be read: {error}") from error
    return None if found is None else str(found)


def is_on(name: str) -> bool:
    """Return whether a setting is on, in the spellings that the services accept."""
    return (setting(name) or "").lower() in ("1", "true", "t", "yes", "y", "on")


def secret_variable(name: str) -> str | None:
    """Return a secret from its `GREGOR_` variable, or from the file of the variable with the suffix `_FILE`.

    Of several secrets, one a line, the first one is returned. Raises CommandError if the file cannot be used.
    """
    return _secret(name, os.environ.get(f"GREGOR_{name}"), os.environ.get(f"GREGOR_{name}_FILE"))


def secret_setting(name: str) -> str | None:
    """Return a secret as `secret_variable` does, else that of the TOML file that GREGOR_CONFIG names."""
    return secret_variable(name) or _secret(name, setting(name), setting(f"{name}_FILE"))


def _secret(name: str, value: str | None, path: str | None) -> str | None:
    if value and path:
        raise CommandError(f"GREGOR_{name} and GREGOR_{name}_FILE are both set; remove one of them")
    try:
        text = read_secret_file(name.lower(), Path(path)) if path else value
    except ValueError as error:
        raise CommandError(f"GREGOR_{name}_FILE: {error}") from error
    return next(iter(secret_lines(text or "")), None)


def duration_setting(name: str) -> float | None:
    """Return the seconds of a setting that is a duration; None if it is not set.

    Raises CommandError if it is invalid.
    """
    text = setting(name)
    seconds = None if text is None else seconds_of(text.removeprefix("-"))
    if text is None or seconds is None:
        if text is not None:
            raise CommandError(f"GREGOR_{name}: {text!r} is not a duration; write 30d, 12h, 90s, or seconds")
        return None
    return -seconds if text.startswith("-") else seconds


# Not `load_settings`: it needs pydantic's settings models and validates variables that only services read.


def now_s() -> float:
    """Return the time of the services in Unix seconds: the clock of this host plus GREGOR_CLOCK_OFFSET."""
    offset_s = duration_setting("CLOCK_OFFSET")
    if offset_s is None:
        running = read_running(os.environ)
        offset_s = running.clock_offset_s if running else 0.0
    return SystemClock(offset_s).now_us() / 1e6
