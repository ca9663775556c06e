"""Validators of settings with structured values: lists, origins, hosts and rates, from text or TOML."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Annotated, Any, Final

from pydantic import BeforeValidator

from gregor.core.notify.intents import CHANNELS
from gregor.net.client_address import is_network
from gregor.net.origins import is_origin_entry

TEST_PARTITIONS: Final = 64
"""For tests and development only: more than a few primaries would get unequal shares of the users."""

PARTITION_COUNTS: Final = (TEST_PARTITIONS, 1024, 4096, 16384)
"""The numbers of partitions that a new deployment can choose from: divisors of the 16,384 hash slots of a cluster."""

DEFAULT_PARTITIONS: Final = 1024
"""Balanced to 7 % up to about 100 primaries (256 would give 17 % at 50)."""


def _names(value: object) -> object:
    """Split a comma-separated text; a list of a TOML file stays as it is."""
    return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value


def _origins(value: object) -> object:
    """Split as `_names` does, and refuse entries that cannot match any page."""
    entries = _names(value)
    for entry in entries if isinstance(entries, list | tuple) else ():
        if not is_origin_entry(str(entry)):
            raise ValueError("an origin is https://app.example, with a port or :* if needed, and without a path")
    return entries


def _hosts(value: object) -> object:
    """Split as `_names` does, and refuse entries that cannot match any endpoint."""
    entries = _names(value)
    for entry in entries if isinstance(entries, list | tuple) else ():
        if not re.fullmatch(r"\*(\.[\w-]+)+|[\w.:-]*[\w.-](:\d{1,5})?", str(entry), re.ASCII):
            raise ValueError("a host is push.example, *.example (any name below) or localhost:8443, without https://")
    return entries


def _networks(value: object) -> object:
    """Split as `_names` does, and refuse entries that are not an address or a network."""
    entries = _names(value)
    for entry in entries if isinstance(entries, list | tuple) else ():
        if not is_network(str(entry)):
            raise ValueError("a network is 10.0.0.0/8, 2001:db8::/32 or one address, without bits below the mask")
    return entries


def _rates(value: object) -> object:
    """Parse `apns=500,email=10`, or a table of a TOML file."""
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


def _partition_count(value: object) -> object:
    """Return the number of partitions. It divides the hash slots of a cluster, and few numbers are tested."""
    if str(value) not in map(str, PARTITION_COUNTS):
        raise ValueError("write 1024, 4096 or 16384 (or 64 for tests)")
    return int(str(value))


def _time_of_day(value: object) -> object:
    if not re.fullmatch(r"([01]\d|2[0-3]):[0-5]\d", str(value), re.ASCII):
        raise ValueError("write a time of day in UTC, such as 03:00")
    return value


def url_like(example: str) -> BeforeValidator:
    """Return a validator of a URL with http or https. Its error shows the example."""

    def refuse_other(value: object) -> object:
        if not re.fullmatch(r"https?://\S+", str(value)):
            raise ValueError(f"write {example}")
        return value

    return BeforeValidator(refuse_other)


_INSTEAD: Mapping[str, str] = {
    "int_parsing": "write a whole number",
    "int_from_float": "write a whole number",
    "int_type": "write a whole number",
    "float_parsing": "write a number",
    "float_type": "write a number",
    "bool_parsing": "write true or false",
    "bool_type": "write true or false",
    "string_type": "write a text",
    "string_too_short": "write at least {min_length} letters",
    "string_pattern_mismatch": "write what matches {pattern}",
    "greater_than": "write more than {gt:.15g}",
    "greater_than_equal": "write {ge:.15g} or more",
    "less_than_equal": "write {le:.15g} or less",
    "literal_error": "write {expected}",
}
"""The fix for each error type of pydantic; the placeholders are pydantic's context of the error."""


def fix_for(problem: Mapping[str, Any]) -> str:
    """Return the fix of a refused value. If one of our validators refused it, that is the message of the validator."""
    words = _INSTEAD.get(problem["type"])
    if words is not None:
        return words.format(**problem.get("ctx", {}))
    message: str = problem["msg"].removeprefix("Value error, ")
    return message[:1].lower() + message[1:]


HostEntries = Annotated[tuple[str, ...], BeforeValidator(_hosts)]
NetworkEntries = Annotated[tuple[str, ...], BeforeValidator(_networks)]
OriginEntries = Annotated[tuple[str, ...], BeforeValidator(_origins)]
PartitionCount = Annotated[int, BeforeValidator(_partition_count)]
Rates = Annotated[dict[str, float], BeforeValidator(_rates)]
TimeOfDay = Annotated[str, BeforeValidator(_time_of_day)]
