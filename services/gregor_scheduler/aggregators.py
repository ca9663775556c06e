"""Python that makes the body of a summary (entry point group ``gregor.aggregators``), by the categories it serves.

The name of an entry point is a category prefix, or ``*`` for all; the longest that covers a category wins. It is called
with the items that are folded, the oldest first, each as it goes out and with its ``id``, and returns the body, a JSON
object.
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
PATIENCE_S: Final = 2.0
"""How long an aggregator may take, and how long a call waits for those before it."""

Aggregator = Callable[[Sequence[Mapping[str, Any]]], Mapping[str, Any]]


class AggregatorFailed(Exception):
    """An aggregator raised, took too long, or made no body; ``name`` is its entry point."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"{name}: {reason}")
        self.name = name


class AggregatorRaised(Exception):
    """Whatever an aggregator raised, as an ordinary exception."""


class Busy(Exception):
    """An aggregator has no time: calls before this one take long, or one of them never ended."""


class _Worker:
    """One aggregator, called in a thread, once at a time.

    No thread can be ended from outside. One that hangs is left behind (a daemon, so that the process can end), and the
    aggregator is not called again before it has ended: it costs one thread, however many windows end meanwhile.
    """

    def __init__(self, aggregator: Aggregator, max_wait_s: float) -> None:
        self._aggregator = aggregator
        self._patience_s = max_wait_s
        self._turn = asyncio.Lock()
        self._left_behind: threading.Thread | None = None

    async def call(self, items: Sequence[Mapping[str, Any]]) -> Any:
        """What the aggregator returns. Raises what it raises, ``TimeoutError``, or ``Busy``."""
        try:
            async with asyncio.timeout(self._patience_s):
                await self._turn.acquire()
        except TimeoutError:
            raise Busy("it is busy with other summaries") from None
        try:
            if self._left_behind is not None and self._left_behind.is_alive():
                raise Busy("a call before this one has not ended")
            return await self._run(items)
        finally:
            self._turn.release()

    async def _run(self, items: Sequence[Mapping[str, Any]]) -> Any:
        loop, ended = asyncio.get_running_loop(), asyncio.Event()
        results: list[tuple[Any, BaseException | None]] = []

        def run() -> None:
            try:
                results.append((self._aggregator(items), None))
            except BaseException as error:
                results.append((None, error))
            with suppress(RuntimeError):  # the loop may be closed by now
                loop.call_soon_threadsafe(ended.set)

        thread = threading.Thread(target=run, daemon=True, name="aggregator")
        thread.start()
        try:
            async with asyncio.timeout(self._patience_s):
                await ended.wait()
        except (TimeoutError, asyncio.CancelledError):
            self._left_behind = thread
            raise
        made, error = results[0]
        if error is not None:
            raise AggregatorRaised(repr(error)) from error
        return made


class Aggregators:
    """The aggregators of a process. Without one for a category, the summary counts and keeps samples."""

    def __init__(self, known: Mapping[str, Aggregator] | None = None, max_wait_s: float = PATIENCE_S) -> None:
        self._patience_s = max_wait_s
        self._known = {name: _Worker(aggregator, max_wait_s) for name, aggregator in (known or {}).items()}

    @property
    def names(self) -> tuple[str, ...]:
        """The prefixes that are served."""
        return tuple(self._known)

    async def body(self, items: Sequence[LiveItem], aggregate: AggregationPolicy, limits: Limits) -> bytes:
        """The body of the summary of ``items``. Raises ``AggregatorFailed``: nothing is to be folded then."""
        category = items[0].category
        name = max((prefix for prefix in self._known if covers(prefix, category)), key=len, default=None)
        if name is None:
            return summary_body(items, aggregate.keep, limits)
        try:
            return validate_summary_body(await self._known[name].call(aggregator_input(items)), limits)
        except TimeoutError as error:
            raise AggregatorFailed(name, f"it took longer than {self._patience_s:g} s") from error
        except (AggregatorRaised, InvalidSummary, Busy) as error:
            raise AggregatorFailed(name, str(error)) from error


def installed() -> Aggregators:
    """Those of all installed distributions; one that cannot be used is logged and left out."""
    known: dict[str, Aggregator] = {}
    for entry in entry_points(group=GROUP):
        prefix = "" if entry.name == ALL_CATEGORIES else entry.name
        try:
            aggregator = entry.load()
            if prefix and not is_dotted(prefix):
                raise ValueError("its name is no category prefix")
            if not callable(aggregator):
                raise TypeError("it cannot be called")
            known[prefix] = aggregator
        except Exception as error:
            _log.error("An aggregator cannot be loaded.", aggregator=entry.name, reason=repr(error))
    return Aggregators(known)
