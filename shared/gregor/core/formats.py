"""Formats of stored and published values: the first byte of each value names its format. Pure.

A first byte below ``0x80`` is format 1: a letter that names the kind of the value, or ``{`` for a JSON document. In
every later format the first byte is ``0x80`` + the number of the format, and the letter follows. A reader compares the
first byte with those that it knows, so it never parses a value of another format.
"""

from __future__ import annotations

from typing import Final

from gregor import __version__

FORMAT: Final = 1
"""The newest format of this release. It is written as soon as every process can read it."""

READS: Final = (1, FORMAT)
"""The lowest and the highest format that this release reads."""

LATER: Final = 0x80
"""The first byte of a value in format *n* > 1 is this number plus *n*."""


class UnknownFormat(ValueError):
    """A value of a format that this release cannot read. ``kind``: what the value is; ``first``: its first byte."""

    def __init__(self, kind: str, first: int) -> None:
        self.kind = kind
        self.first = first
        super().__init__(unknown_format_text(kind, first))


def unknown_format_text(kind: str, first: int) -> str:
    """Return the error for a value with this first byte: it names the format, and the fix."""
    own = f"this release of gregor ({__version__}) reads formats {READS[0]} to {READS[1]}"
    if first < LATER:
        return f"a {kind} begins with the unknown byte 0x{first:02x}; {own}"
    return f"a {kind} has format {first - LATER}; {own}; upgrade this process"


def first_byte(value_format: str) -> int:
    """Return the first byte of a later format from its number as text. Raises ``ValueError`` if it is not a number."""
    return LATER + int(value_format) % LATER
