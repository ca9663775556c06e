"""The search for the items of a commit's intervals, page by page before the commit. Pure.

A scan of 2,000 live items holds Redis for 3 to 8 ms, and all users wait for it. If a user has more live items than a
page, the script ``commit`` therefore sends a commit with intervals back. The store then runs the same script for each
page: it writes nothing and returns the members that match. The commit reads only these, and the items that were created
since, with the same result as one scan. `lua/commit/commit.lua` explains the arguments.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Final, NamedTuple

import msgspec

from gregor.core.messages.model import Commit

SEARCH_PAGE: Final = 500
"""Live items that one script reads: about 1 ms of server time."""

_NEVER_TOO_MANY: Final = 0xFFFF


class SearchPage(NamedTuple):
    """One page of a search.

    ``read_at``: packed epoch, seq and time of the server. ``next_seq``: where the next page begins (0: there is none).
    ``members``: packed. ``charged_bytes``: the bytes to charge to the sender, as for a commit.
    """

    read_at: bytes
    next_seq: int
    members: bytes
    charged_bytes: int


def search_commit(commit: Commit) -> Commit:
    """Return the commit to search with: the intervals alone, without the ids that they skip."""
    spans = tuple(dataclasses.replace(span, skip=frozenset(), matches_own=()) for span in commit.spans)
    return msgspec.structs.replace(commit, creations=(), ids=(), spans=spans, message_id=None)


def pack_search_above(page: int) -> bytes:
    """Return the argument of a commit that is sent back if the user has more live items than a page."""
    return b"l" + page.to_bytes(2, "big")


def pack_page_search(page: int, start_seq: int, commit: Commit) -> bytes:
    """Return the argument that searches one page for a commit."""
    # A page finds items that the commit may skip, so it cannot know whether they are too many.
    may_skip = any(span.skip or span.matches_own for span in commit.spans)
    freeing = _NEVER_TOO_MANY if may_skip else len(commit.creations)
    return b"p" + page.to_bytes(2, "big") + start_seq.to_bytes(5, "big") + freeing.to_bytes(2, "big")


def pack_found(pages: Sequence[SearchPage]) -> bytes:
    """Return the argument of the commit after a search. Items created since its first page are read by the commit."""
    return b"s" + pages[0].read_at + b"".join([page.members for page in pages])
