"""Category prefixes of a reader or sender as one text, the form in which they are stored and compared."""

from __future__ import annotations

from gregor.core.ids import Prefixes


def pack_category_filter(prefixes: Prefixes) -> str:
    """Return the prefixes joined by commas: ``""`` means no limit, ``","`` means that no category is allowed."""
    return "" if prefixes is None else ",".join(prefixes) if prefixes else ","


def unpack_category_filter(text: str) -> Prefixes:
    """Return the prefixes that ``pack_category_filter`` wrote."""
    return None if text == "" else () if text == "," else tuple(text.split(","))
