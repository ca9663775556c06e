"""Pagination: a page has up to ``limit`` entries, and the header ``Link`` (RFC 8288) has the address of the next page.

The query parameter ``before`` names the last entry of the previous page, so pages stay right while entries are added.
"""

from __future__ import annotations

from typing import Annotated, Final
from urllib.parse import urlencode

from fastapi import Query, Request

from gregor.core.errors import Problem

from .schemas.fields import PageSize

DEFAULT_LIMIT: Final = 100

Limit = Annotated[PageSize, Query(description="The maximum number of entries of a page.")]
BEFORE_DESCRIPTION: Final = "The position of the next page, from the header `Link` of the previous one."


def next_link(request: Request, before: str) -> dict[str, str]:
    """Return the header ``Link`` to the next page: the same query, from another position."""
    # Everything else in the query stays, also repeated parameters such as category_prefix.
    query = [pair for pair in request.query_params.multi_items() if pair[0] != "before"]
    return {"Link": f'<{request.url.path}?{urlencode([*query, ("before", before)])}>; rel="next"'}


def invalid_before() -> Problem:
    """Return the error for a ``before`` that is not from a ``Link``."""
    return Problem("invalid", "The query parameter before is not valid: copy it from the Link of the previous page.")
