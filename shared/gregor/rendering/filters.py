"""The filters of templates, and the render budget that limits their work."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from itertools import islice
from typing import Any, Final

from jinja2 import Undefined, filters, pass_context
from jinja2.runtime import Context, markup_join, str_join
from jinja2.utils import htmlsafe_json_dumps
from markupsafe import Markup, escape

_MAX_LISTED: Final = 20_000  # more values than the largest allowed body has
_CHARS_PER_STEP: Final = 64
_VALUES_PER_STEP: Final = 2
_MAX_DIGITS: Final = 15
_DATE_PARTS: Final = re.compile(r"%[aAbBdHIjmMpSyYZ%]")


# ---- limits of one rendering


class LimitExceeded(Exception):
    """A rendering exceeded a limit."""


class RenderBudget:
    """The remaining steps and time of one rendering. Stored among the variables, under a name with a space.

    The time starts with the first charged step. A template that only shows values never reads the clock.
    """

    NAME: Final = " budget"

    __slots__ = ("_left", "_max_chars", "_max_ns", "_until_ns")

    def __init__(self, steps: int, ms: int, chars: int) -> None:
        self._left = steps
        self._max_chars = chars
        self._max_ns = ms * 1_000_000
        self._until_ns = 0

    def charge(self, steps: int) -> None:
        """Use ``steps``, at least one. Raises ``LimitExceeded`` if no steps or no time is left."""
        self._left -= max(1, steps)
        now_ns = time.thread_time_ns()
        self._until_ns = self._until_ns or now_ns + self._max_ns
        if self._left < 0 or now_ns > self._until_ns:
            raise LimitExceeded("the template needs too many steps")

    def keep(self, value: Any) -> Any:
        """Return ``value``. Raises ``LimitExceeded`` if it is too long."""
        if isinstance(value, str) and len(value) > self._max_chars:
            raise LimitExceeded(f"a text is longer than {self._max_chars} characters")
        return value


# ---- values


class SampleValue:
    """A sample body for checks of templates: it has every member, and works as any kind of value."""

    def __init__(self, is_true: bool) -> None:
        self._is_true = is_true

    def __str__(self) -> str:
        return "sample"

    def __bool__(self) -> bool:
        return self._is_true

    def __len__(self) -> int:
        return 2

    def __iter__(self) -> Iterator[SampleValue]:
        return iter((self, self))

    def __getitem__(self, _key: Any) -> SampleValue:
        return self

    def __contains__(self, _value: Any) -> bool:
        return self._is_true

    def __int__(self) -> int:
        return 1

    def __float__(self) -> float:
        return 1.0

    def __abs__(self) -> int:
        return 1

    def __neg__(self) -> SampleValue:
        return self

    __pos__ = __neg__

    def __mod__(self, _other: Any) -> int:
        return 1

    def __lt__(self, _other: Any) -> bool:
        return self._is_true

    __le__ = __gt__ = __ge__ = __lt__


def shown_text(value: Any) -> Any:
    """Return a value as templates show it: empty for null, JSON for arrays, objects, true and false."""
    if value is None:
        return ""
    if isinstance(value, bool | Mapping | list | tuple):
        return json.dumps(value, ensure_ascii=False, default=str)
    return value


# ---- filters


def _bounded(work: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a filter: charge it for the size of its input, and limit its result."""

    @pass_context
    def bounded(context: Context, value: Any, *args: Any, **kwargs: Any) -> Any:
        budget: RenderBudget = context[RenderBudget.NAME]
        if isinstance(value, Iterator):
            value = list(islice(value, _MAX_LISTED))
        budget.charge(_cost(value) + sum(map(_cost, args)))
        made = work(context, value, *args, **kwargs)
        if isinstance(made, Iterator):
            made = list(islice(made, _MAX_LISTED))
        return budget.keep(made)

    return bounded


def _cost(value: Any) -> int:
    if isinstance(value, str):
        return 1 + len(value) // _CHARS_PER_STEP
    if isinstance(value, list | tuple | Mapping):
        return 1 + len(value) // _VALUES_PER_STEP
    return 1


def _listed(value: Any) -> list[Any]:
    if isinstance(value, Undefined) or value is None:
        return []
    return list(value)


@pass_context
def _each(context: Context, value: Any, weight: int) -> Iterator[Any]:
    """Yield the values of a loop; each iteration is charged ``weight`` steps."""
    budget: RenderBudget = context[RenderBudget.NAME]
    for entry in _listed(value):
        budget.charge(weight)
        yield entry


def _concat(context: Context, *parts: Any) -> str:
    shown = [shown_text(part) for part in parts]
    return markup_join(shown) if context.eval_ctx.autoescape else str_join(shown)


def _join(context: Context, value: Any, separator: Any = "", attribute: str | None = None) -> str:
    parts = _listed(filters.sync_do_map(context, value, attribute=attribute) if attribute else value)
    shown = [shown_text(part) for part in parts]
    length = sum(len(str(part)) for part in shown) + len(str(separator)) * len(shown)
    context[RenderBudget.NAME].charge(length // _CHARS_PER_STEP)
    if not context.eval_ctx.autoescape:
        return str(separator).join(map(str, shown))
    return escape(separator).join(shown)


def _replace(context: Context, value: Any, old: Any, new: Any, count: int = -1) -> str:
    text, was, will = str(shown_text(value)), str(old), str(new)
    if isinstance(value, Markup):
        was, will = str(escape(old)), str(escape(new))
    found = text.count(was) if count < 0 else min(count, text.count(was))
    context[RenderBudget.NAME].charge((len(text) + found * len(will)) // _CHARS_PER_STEP)
    made = text.replace(was, will, found)
    return Markup(made) if isinstance(value, Markup) else made  # noqa: S704


def _round(_context: Context, value: Any, digits: int = 0) -> int | float:
    # Python accepts a million digits, which would take seconds.
    rounded = round(float(value), max(-_MAX_DIGITS, min(int(digits), _MAX_DIGITS)))
    return int(rounded) if digits <= 0 else rounded


def _sum(context: Context, value: Any, attribute: str | None = None) -> int | float:
    parts = _listed(filters.sync_do_map(context, value, attribute=attribute) if attribute else value)
    return sum(part if isinstance(part, int | float) else float(part) for part in parts)


def _to_json(_context: Context, value: Any) -> Markup:
    plain = None if isinstance(value, Undefined) else value
    # htmlsafe: the JSON may be inside a <script> element.
    return htmlsafe_json_dumps(plain, dumps=_dumps)


def _dumps(value: Any, **_options: Any) -> str:
    return json.dumps(value, ensure_ascii=False, sort_keys=True, default=str)


def _items(_context: Context, value: Any) -> list[tuple[Any, Any]]:
    return list(value.items()) if isinstance(value, Mapping) else []


def _date(_context: Context, value: Any, form: str = "%Y-%m-%d") -> str:
    """Format Unix seconds as a date in UTC; empty for null."""
    if value is None or isinstance(value, Undefined):
        return ""
    moment = datetime.fromtimestamp(float(value), UTC)
    return _DATE_PARTS.sub(lambda part: moment.strftime(part[0]), form)


def _plain(work: Callable[..., Any]) -> Callable[..., Any]:
    """Adapt a Jinja2 filter that needs neither context nor environment."""
    return lambda _context, value, *args, **kwargs: work(value, *args, **kwargs)


def _environed(work: Callable[..., Any]) -> Callable[..., Any]:
    return lambda context, value, *args, **kwargs: work(context.environment, value, *args, **kwargs)


# ---- the table of filters

_PLAIN: Final[Iterable[tuple[str, Callable[..., Any]]]] = (
    ("abs", abs),
    ("capitalize", filters.do_capitalize),
    ("count", len),
    ("d", filters.do_default),
    ("default", filters.do_default),
    ("e", escape),
    ("escape", escape),
    ("float", filters.do_float),
    ("int", filters.do_int),
    ("length", len),
    ("list", list),
    ("lower", filters.do_lower),
    ("reverse", filters.do_reverse),
    ("string", lambda value: value if isinstance(value, Markup) else str(shown_text(value))),
    ("title", filters.do_title),
    ("trim", filters.do_trim),
    ("upper", filters.do_upper),
    ("urlencode", filters.do_urlencode),
)
_ENVIRONED: Final[Iterable[tuple[str, Callable[..., Any]]]] = (
    ("first", filters.sync_do_first),
    ("last", filters.do_last),
    ("max", filters.do_max),
    ("min", filters.do_min),
    ("sort", filters.do_sort),
    ("truncate", filters.do_truncate),
    ("unique", filters.sync_do_unique),
)
_IN_CONTEXT: Final[Iterable[tuple[str, Callable[..., Any]]]] = (
    (" ~", _concat),
    ("date", _date),
    ("items", _items),
    ("join", _join),
    ("map", filters.sync_do_map),
    ("reject", filters.sync_do_reject),
    ("rejectattr", filters.sync_do_rejectattr),
    ("replace", _replace),
    ("round", _round),
    ("select", filters.sync_do_select),
    ("selectattr", filters.sync_do_selectattr),
    ("sum", _sum),
    ("tojson", _to_json),
)

FILTERS: Final[Mapping[str, Callable[..., Any]]] = {
    **{name: _bounded(_plain(work)) for name, work in _PLAIN},
    **{name: _bounded(_environed(work)) for name, work in _ENVIRONED},
    **{name: _bounded(work) for name, work in _IN_CONTEXT},
    " each": _each,
}
"""All filters by name. The sandbox inserts those whose name begins with a space; templates cannot name them."""
