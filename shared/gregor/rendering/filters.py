"""The filters of templates. Each charges the render budget by the size of its operands."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from itertools import islice
from typing import Any, Final

from jinja2 import Undefined, filters, pass_context
from jinja2.runtime import Context, markup_join, str_join
from jinja2.utils import htmlsafe_json_dumps
from markupsafe import Markup, escape, soft_str

from .budget import CHARS_PER_STEP, CONTAINERS, RenderBudget

_MAX_LISTED: Final = 20_000  # more values than the largest allowed body has
_MAX_DIGITS: Final = 15
_CHARS_PER_REFERENCE: Final = 8
"""Characters that cost as much to copy as one reference of a list."""
_SCALARS: Final = (str, int, float)
_DATE_PARTS: Final = re.compile(r"%[aAbBdHIjmMpSyYZ%]")

ATTRIBUTE_ARGUMENT: Final = {
    "join": 1,
    "max": 1,
    "min": 1,
    "rejectattr": 0,
    "selectattr": 0,
    "sort": 2,
    "sum": 0,
    "unique": 1,
}
"""The position of the attribute name among the arguments of a filter."""


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


@pass_context
def finalize(context: Context, value: Any) -> Any:
    """Return a value as ``{{ … }}`` shows it. Charges for arrays and objects, which may contain one text many times."""
    if isinstance(value, _SCALARS) and value is not True and value is not False:
        return value
    if isinstance(value, CONTAINERS):
        context.parent[RenderBudget.NAME].charge_content(value)
    return shown_text(value)


# ---- filters of any kind


def _charging_filter(name: str, work: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a filter: charge it for the size of its operands, and limit its result."""
    charge = _CHARGES.get(name, _charge_content)
    attribute_at = ATTRIBUTE_ARGUMENT.get(name)

    @pass_context
    def charged(context: Context, value: Any, *args: Any, **kwargs: Any) -> Any:
        budget: RenderBudget = context.parent[RenderBudget.NAME]
        if isinstance(value, Iterator):
            value = list(islice(value, _MAX_LISTED))
        attribute = kwargs.get("attribute")
        if attribute_at is not None and len(args) > attribute_at:
            attribute = args[attribute_at]
        charge(context, budget, value, attribute, (*args, *kwargs.values()))
        made = work(context, value, *args, **kwargs)
        if isinstance(made, Iterator):
            made = list(islice(made, _MAX_LISTED))
        budget.check_size(made)
        return made

    return charged


def _listed(value: Any) -> list[Any]:
    if isinstance(value, Undefined) or value is None:
        return []
    return list(value)


# ---- charges for the operands of a filter

_Charge = Callable[[Context, RenderBudget, Any, Any, tuple[Any, ...]], None]


def _charge_content(
    _context: Context, budget: RenderBudget, value: Any, _attribute: Any, arguments: tuple[Any, ...]
) -> None:
    budget.charge_content(value, *arguments)


def _charge_slow_content(
    _context: Context, budget: RenderBudget, value: Any, _attribute: Any, arguments: tuple[Any, ...]
) -> None:
    """Charge for a filter that takes 0.1 µs or more for each character."""
    budget.charge_content(value, *arguments, weight=8)


def _charge_once(
    _context: Context, budget: RenderBudget, _value: Any, _attribute: Any, _arguments: tuple[Any, ...]
) -> None:
    budget.charge(1)


def _charge_entries(
    _context: Context, budget: RenderBudget, value: Any, attribute: Any, _arguments: tuple[Any, ...]
) -> None:
    """Charge for each direct entry. A filter or test that runs for each entry makes its own charge."""
    budget.charge_entries(value, _path_length(attribute))


def _charge_keys(
    context: Context, budget: RenderBudget, value: Any, attribute: Any, arguments: tuple[Any, ...]
) -> None:
    """Charge for each direct entry, and for the content of its key, which is shown, hashed or compared.

    The key is the member that ``attribute`` names, by default the entry itself.
    """
    budget.charge_entries(value, _path_length(attribute))
    keys = value
    if attribute is not None and isinstance(value, list | tuple | Mapping):
        key_of = filters.make_attrgetter(context.environment, attribute)
        keys = [key_of(entry) for entry in value]
    budget.charge_content(keys, *arguments, is_compared=True)


def _charge_sort_keys(
    context: Context, budget: RenderBudget, value: Any, attribute: Any, arguments: tuple[Any, ...]
) -> None:
    """Charge for several attributes, separated by commas. Only ``sort`` accepts them."""
    for part in attribute.split(",") if isinstance(attribute, str) else (attribute,):
        _charge_keys(context, budget, value, part, arguments)


def _path_length(attribute: Any) -> int:
    """Return the number of names in an attribute path: 2 for ``a.b``."""
    return 1 + attribute.count(".") if isinstance(attribute, str) else 1


_CHARGES: Final[Mapping[str, _Charge]] = {
    **dict.fromkeys(("count", "d", "default", "first", "last", "length"), _charge_once),
    **dict.fromkeys(
        ("items", "list", "map", "reject", "rejectattr", "reverse", "select", "selectattr"), _charge_entries
    ),
    **dict.fromkeys(("join", "max", "min", "sum", "unique"), _charge_keys),
    "sort": _charge_sort_keys,
    **dict.fromkeys(("date", "title", "urlencode"), _charge_slow_content),
}
"""Charges by filter. All other filters use ``_charge_content``."""


# ---- filters


@pass_context
def _each(context: Context, value: Any, weight: int) -> Iterator[Any]:
    """Yield the values of a loop; each iteration is charged ``weight`` steps."""
    budget: RenderBudget = context.parent[RenderBudget.NAME]
    for entry in _listed(value):
        budget.charge(weight)
        yield entry


def _concat(context: Context, *parts: Any) -> str:
    shown = [shown_text(part) for part in parts]
    return markup_join(shown) if context.eval_ctx.autoescape else str_join(shown)


@pass_context
def _sliced(context: Context, value: Any) -> Any:
    """Charge for the copy that a slice has made, and return it."""
    chars = 0
    if isinstance(value, str):
        chars = len(value)
    elif isinstance(value, list):
        chars = _CHARS_PER_REFERENCE * len(value)
    context.parent[RenderBudget.NAME].charge(chars // CHARS_PER_STEP)
    return value


def _join(context: Context, value: Any, separator: Any = "", attribute: str | None = None) -> str:
    parts = _listed(filters.sync_do_map(context, value, attribute=attribute) if attribute else value)
    shown = [shown_text(part) for part in parts]
    length = sum(len(str(part)) for part in shown) + len(str(separator)) * len(shown)
    context.parent[RenderBudget.NAME].charge(length // CHARS_PER_STEP)
    if not context.eval_ctx.autoescape:
        return str(separator).join(map(str, shown))
    return escape(separator).join(shown)


def _replace(context: Context, value: Any, old: Any, new: Any, count: int = -1) -> str:
    text, was, will = str(shown_text(value)), str(old), str(new)
    if isinstance(value, Markup):
        was, will = str(escape(old)), str(escape(new))
    found = text.count(was) if count < 0 else min(count, text.count(was))
    context.parent[RenderBudget.NAME].charge((len(text) + found * len(will)) // CHARS_PER_STEP)
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


def _trim(context: Context, value: Any, characters: str | None = None) -> str:
    text = soft_str(value)
    if characters is None:
        return text.strip()
    # `str.strip` searches all of `characters` for each character of the text.
    distinct = "".join(set(characters))
    context.parent[RenderBudget.NAME].charge(len(text) * len(distinct) // (CHARS_PER_STEP * CHARS_PER_STEP))
    return text.strip(distinct)


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
    ("trim", _trim),
)

FILTERS: Final[Mapping[str, Callable[..., Any]]] = {
    **{name: _charging_filter(name, _plain(work)) for name, work in _PLAIN},
    **{name: _charging_filter(name, _environed(work)) for name, work in _ENVIRONED},
    **{name: _charging_filter(name, work) for name, work in _IN_CONTEXT},
    " each": _each,
    " sliced": _sliced,
}
"""All filters by name. The sandbox inserts those whose name begins with a space; templates cannot name them."""
