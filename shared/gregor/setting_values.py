"""Values of settings that are more than a word or a number: as text or as TOML has them, refused with the mend."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated

from pydantic import BeforeValidator

from gregor.core.intents import CHANNELS
from gregor.origins import is_entry


def names(value: object) -> object:
    """A comma-separated text as its parts; a list of a TOML file as it is."""
    return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value


def _origins(value: object) -> object:
    """As `names`; an entry that no page can ever match is refused: it is a typing error."""
    entries = names(value)
    for entry in entries if isinstance(entries, list | tuple) else ():
        if not is_entry(str(entry)):
            raise ValueError("an origin is https://app.example, with a port or :* where it needs one, and no path")
    return entries


def _rates(value: object) -> object:
    """`apns=500,email=10` as a table; of the table of a TOML file the same."""
    if isinstance(value, str):
        parts = [part.partition("=") for part in value.split(",") if part.strip()]
        value = {name.strip(): rate.strip() for name, _, rate in parts}
    if not isinstance(value, Mapping):
        raise ValueError("write apns=500,email=10")
    for name, rate in value.items():
        if name not in CHANNELS:
            raise ValueError(f"write apns=500,email=10; channels are {', '.join(CHANNELS)}")
        if not _is_rate(rate):
            raise ValueError(f"the rate of {name} is a number above 0, as in {name}=10")
    return value


def _is_rate(value: object) -> bool:
    try:
        return not isinstance(value, bool) and 0 < float(str(value)) < math.inf
    except ValueError:
        return False


Names = Annotated[tuple[str, ...], BeforeValidator(names)]
OriginEntries = Annotated[tuple[str, ...], BeforeValidator(_origins)]
Rates = Annotated[dict[str, float], BeforeValidator(_rates)]
