"""Generates the table of access in the documentation: ``python -m tests.support.access_table`` rewrites it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from gregor.store.service_keys import LIMITABLE_SCOPES
from gregor_ingest.auth.rules import ACCESS_RULES, CATEGORIES, SYSTEMS, AccessRule, DeviceAccess

PAGE: Final = Path(__file__).parents[2] / "docs" / "reference" / "http.md"
_BLOCK: Final = re.compile(r"(<!-- access: generated -->\n).*?(\n<!-- /access -->)", re.DOTALL)

APPLIED: Final = "applied"
REFUSED: Final = "403"
UNCONCERNED: Final = "–"
"""The endpoint has nothing that the limit is about, or no device token may use it."""

RESTRICTIONS: Final = ("prefixes of a key", "systems of a key", "cats of a token", "systems of a token")


def cell(rule: AccessRule, restriction: str) -> str:
    """Return what a restriction means for an endpoint."""
    limit = SYSTEMS if restriction.startswith("systems") else CATEGORIES
    is_for_keys = restriction.endswith("key")
    if is_for_keys and not rule.scopes & LIMITABLE_SCOPES:
        return REFUSED
    if not is_for_keys and rule.device_access is DeviceAccess.NOTHING:
        return UNCONCERNED
    return APPLIED if limit in rule.limits else UNCONCERNED


def access_table() -> str:
    """Return the Markdown table of all endpoints and restrictions."""
    head = ("endpoint", "scope of a key", *(f"`{each.split()[0]}`{each[each.index(' ') :]}" for each in RESTRICTIONS))
    rows = [
        (
            f"`{rule.method} {rule.path}`",
            ", ".join(f"`{scope}`" for scope in sorted(rule.scopes, reverse=True)),
            *(cell(rule, each) for each in RESTRICTIONS),
            rule.device_access.value,
        )
        for rule in ACCESS_RULES
    ]
    lines = [(*head, "device token"), ("---",) * (len(head) + 1), *rows]
    return "\n".join(f"| {' | '.join(line)} |".replace("| --- ", "|---").replace("---|", "---|") for line in lines)


def with_current_table(text: str) -> str:
    """Return a page with its generated block brought up to date."""
    return _BLOCK.sub(lambda block: block[1] + access_table() + block[2], text)


if __name__ == "__main__":
    PAGE.write_text(with_current_table(PAGE.read_text("utf-8")), "utf-8")
