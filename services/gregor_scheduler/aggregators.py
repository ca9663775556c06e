"""Loads and calls aggregators: plugins that build the body of a summary (entry point group ``gregor.aggregators``).

The name of an entry point is the category prefix that it serves, or ``*`` for all. The longest prefix of a category
wins. An aggregator gets the items of the summary, oldest first, each as JSON object with its ``id``, and returns the
body as a JSON object.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from importlib.metadata import entry_points
from typing import Any, Final

import structlog

from gregor.core.categories.policy import AggregationPolicy
from gregor.core.ids import covers, is_dotted
from gregor.core.items.sync import LiveItem
from gregor.core.limits import Limits
from gregor.core.notify.aggregation import InvalidSummary, aggregator_input, summary_body, validate_summary_body
from gregor.core.notify.contact import ALL_CATEGORIES

_log = structlog.get_logger(__name__)

GROUP: Final = "gregor.aggregators"
TIMEOUT_S: Final = 2.0
"""Timeout of one call, and of the wait for the calls before it."""

Aggregator = Callable[[Sequence[Mapping[str, Any]]], Mapping[str, Any]]


class AggregatorFailed(Exception):
    """An aggregator raised, timed out or returned an invalid body. ``name`` is its entry point."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"aggregator {name!r}: {reason}")
        self.name = name


class AggregatorRaised(Exception):
    """The exception of an aggregator, wrapped: plugins may raise even a ``BaseException``."""


class AggregatorBusy(Exception):
    """The aggregator is still executing earlier calls."""


# ---- calls


class _AggregatorThread:
    """Calls one aggregator in a daemon thread, one call at a time.

    The thread also decodes the items and validates the body. In the event loop, 1 MiB would stop all other tasks for
    half a second.

    Python cannot stop a thread. A call that hangs keeps its thread, and the aggregator is not called again before that
    thread has ended. A hanging aggregator therefore costs one thread, however many windows end.
    """

    def __init__(self, aggregator: Aggregator, timeout_s: float) -> None:
        self._aggregator = aggregator
        self._timeout_s = timeout_s
        self._turn = asyncio.Lock()
        self._abandoned: threading.Thread | None = None

    async def call(self, items: Sequence[LiveItem], limits: Limits) -> bytes:
        """Return the body that the aggregator makes.

        Raises ``AggregatorRaised``, ``InvalidSummary``, ``TimeoutError`` or ``AggregatorBusy``.
        """
        try:
            async with asyncio.timeout(self._timeout_s):
                await self._turn.acquire()
        except TimeoutError:
            raise AggregatorBusy("busy with other summaries") from None
        try:
            if self._abandoned is not None and self._abandoned.is_alive():
                raise AggregatorBusy("an earlier call has not returned yet")
            return await self._run(items, limits)
        finally:
            self._turn.release()

    async def _run(self, items: Sequence[LiveItem], limits: Limits) -> bytes:
        loop, finished = asyncio.get_running_loop(), asyncio.Event()
        results: list[bytes | BaseException] = []

        def run() -> None:
            try:
                made = self._aggregator(aggregator_input(items))
                results.append(validate_summary_body(made, limits))
            # A plugin may call sys.exit(); that must not end the thread without a result.
            except BaseException as error:
                results.append(error)
            with suppress(RuntimeError):  # the event loop is closed if the process stops meanwhile
                loop.call_soon_threadsafe(finished.set)

        thread = threading.Thread(target=run, daemon=True, name="aggregator")
        thread.start()
        try:
            async with asyncio.timeout(self._timeout_s):
                await finished.wait()
        except (TimeoutError, asyncio.CancelledError):
            self._abandoned = thread
            raise
        result = results[0]
        if isinstance(result, InvalidSummary):
            raise result
        if isinstance(result, BaseException):
            raise AggregatorRaised(repr(result)) from result
        return result


class Aggregators:
    """The aggregators of a process. A category without one gets a summary with a count and samples."""

    def __init__(self, aggregators: Mapping[str, Aggregator] | None = None, timeout_s: float = TIMEOUT_S) -> None:
        self._timeout_s = timeout_s
        self._threads = {
            prefix: _AggregatorThread(aggregator, timeout_s) for prefix, aggregator in (aggregators or {}).items()
        }

    @property
    def prefixes(self) -> tuple[str, ...]:
        """The category prefixes that have an aggregator."""
        return tuple(self._threads)

    async def body(self, items: Sequence[LiveItem], aggregate: AggregationPolicy, limits: Limits) -> bytes:
        """Return the body of the summary of ``items``. Raises ``AggregatorFailed``; then nothing may be aggregated."""
        category = items[0].category
        prefix = max((prefix for prefix in self._threads if covers(prefix, category)), key=len, default=None)
        if prefix is None:
            return summary_body(items, aggregate.keep, limits)
        try:
            return await self._threads[prefix].call(items, limits)
        except TimeoutError as error:
            raise AggregatorFailed(prefix, f"no result within {self._timeout_s:g} s") from error
        except (AggregatorRaised, InvalidSummary, AggregatorBusy) as error:
            raise AggregatorFailed(prefix, str(error)) from error


# ---- entry points


def load_aggregators() -> Aggregators:
    """Load the aggregators of all installed distributions. An invalid one is logged and skipped."""
    loaded: dict[str, Aggregator] = {}
    for entry in entry_points(group=GROUP):
        prefix = "" if entry.name == ALL_CATEGORIES else entry.name
        try:
            aggregator = entry.load()
            if prefix and not is_dotted(prefix):
                raise ValueError("the name of the entry point is not a valid category")
            if not callable(aggregator):
                raise TypeError("the entry point is not callable")
            loaded[prefix] = aggregator
        except Exception as error:
            _log.error("aggregator.not_loaded", aggregator=entry.name, reason=repr(error))
    return Aggregators(loaded)
