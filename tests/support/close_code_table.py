"""Generates the table of close codes in the documentation: ``python -m tests.support.close_code_table`` rewrites it.

The table stands between two marker comments in whichever page of ``docs`` holds them.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from gregor.core.close_codes import CloseCode

DOCS: Final = Path(__file__).parents[2] / "docs"
_BLOCK: Final = re.compile(r"(<!-- close codes: generated -->\n).*?(\n<!-- /close codes -->)", re.DOTALL)


def close_code_table() -> str:
    """Return the Markdown table of all close codes."""
    rows = [
        f"| {code.value} | {f'`{code.reason}`' if code.reason else 'RFC 6455'} | {'no' if code.is_final else 'yes'} "
        f"| {code.meaning} |"
        for code in CloseCode
    ]
    return "\n".join(["| code | reason | reconnect | meaning |", "|---|---|---|---|", *rows])


def with_current_table(text: str) -> str:
    """Return a page with its generated block brought up to date; a page without the markers stays as it is."""
    return _BLOCK.sub(lambda block: block[1] + close_code_table() + block[2], text)


def pages_with_table() -> list[Path]:
    """Return the pages that hold the table."""
    return [page for page in sorted(DOCS.rglob("*.md")) if _BLOCK.search(page.read_text("utf-8"))]


if __name__ == "__main__":
    for found in pages_with_table():
        found.write_text(with_current_table(found.read_text("utf-8")), "utf-8")
