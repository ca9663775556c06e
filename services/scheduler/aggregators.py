"""Python that makes the body of a summary (entry point group ``gregor.aggregators``), by the categories it serves.

The name of an entry point is a category prefix; the longest that covers a category wins. It is called with the items
that are folded, the oldest first, each as it goes out and with its ``id``, and returns the body, a JSON object.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import entry_points
from typing import Any, Final

import structlog

from gregor.core.aggregation import BadSummary, documents, made_body, summary_body
from gregor.core.ids import covers
from gregor.core.limits import Limits
from gregor.core.policies import Aggregate
from gregor.core.sync import LiveItem

_log = structlog.get_logger(__name__)

GROUP: Final = "gregor.aggregators"
PATIENCE_S: Final = 2.0
"""How long an aggregator may take. It runs in a thread: one that never ends costs that thread."""

Aggregator = Callable[[Sequence[Mapping[str, Any]]], Mapping[str, Any]]


class AggregatorFailed(Exception):
    """An aggregator raised, took too long, or made no body; ``name`` is its entry point."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"{name}: {reason}")
        self.name = name


class Aggregators:
    """The aggregators of a process. Without one for a category, the summary counts and keeps samples."""

    def __init__(self, known: Mapping[str, Aggregator] | None = None) -> None:
        self._known = dict(known or {})

    async def body(self, items: Sequence[LiveItem], aggregate: Aggregate, limits: Limits) -> bytes:
        """The body of the summary of ``items``. Raises ``AggregatorFailed``: nothing is to be folded then."""
        category = items[0].category
        name = max((prefix for prefix in self._known if covers(prefix, category)), key=len, default=None)
        if name is None:
            return summary_body(items, aggregate.keep, limits)
        try:
            async with asyncio.timeout(PATIENCE_S):
                made = await asyncio.to_thread(self._known[name], documents(items))
            return made_body(made, limits)
        except BadSummary as error:
            raise AggregatorFailed(name, str(error)) from error
        except TimeoutError as error:
            raise AggregatorFailed(name, f"it took longer than {PATIENCE_S:g} s") from error
        except Exception as error:
            raise AggregatorFailed(name, repr(error)) from error


def installed() -> Aggregators:
    """Those of all installed distributions; one that cannot be loaded is logged and left out."""
    known: dict[str, Aggregator] = {}
    for entry in entry_points(group=GROUP):
        try:
            known[entry.name] = entry.load()
        except Exception as error:
            _log.error("An aggregator cannot be loaded.", aggregator=entry.name, reason=repr(error))
    return Aggregators(known)
