"""The comparisons of templates: operators and tests. Each charges the render budget by the size of its operands.

The sandbox replaces the operands of ``==``, ``<`` and ``in`` by filters of ``COMPARISONS``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, cast

from jinja2 import pass_context
from jinja2.runtime import Context
from jinja2.tests import TESTS as _JINJA_TESTS

from .budget import RenderBudget

_JINJA: Final[Mapping[str, Callable[..., Any]]] = cast("Any", _JINJA_TESTS)
_CONSTANT_TIME: Final = (
    *("boolean", "defined", "false", "float", "integer", "mapping", "none", "number", "sameas", "sequence", "string"),
    *("true", "undefined"),
)
_COMPARED: Final = (
    *("!=", "<", "<=", "==", ">", ">=", "eq", "equalto", "ge", "greaterthan", "gt", "le", "lessthan", "lower", "lt"),
    *("ne", "upper"),
)
_OF_NUMBERS: Final = ("divisibleby", "even", "odd")
_SHORT: Final = 64
_CONTAINERS: Final = (list, tuple, dict)


@pass_context
def _compared(context: Context, value: Any) -> Any:
    """Return an operand of a comparison, after the charge for it. A short text costs nothing."""
    if isinstance(value, str):
        if len(value) > _SHORT:
            context.parent[RenderBudget.NAME].charge_content(value)
    elif isinstance(value, _CONTAINERS):
        context.parent[RenderBudget.NAME].charge_content(value, is_ordered=True)
    return value


@pass_context
def _searched(context: Context, value: Any) -> Any:
    """Return the right operand of ``in``, after the charge for it. A member of a JSON object takes constant time."""
    return value if isinstance(value, dict) else _compared(context, value)


def _bounded(test: Callable[..., Any]) -> Callable[..., Any]:
    @pass_context
    def bounded(context: Context, value: Any, *operands: Any) -> Any:
        return test(_compared(context, value), *(_compared(context, operand) for operand in operands))

    return bounded


@pass_context
def _is_in(context: Context, value: Any, values: Any) -> bool:
    return _compared(context, value) in _searched(context, values)


def _of_numbers(name: str, test: Callable[..., Any]) -> Callable[..., Any]:
    @pass_context
    def checked(_context: Context, value: Any, *operands: Any) -> Any:
        # `"%99999999d" % 1` would be a text of 100 MB.
        if isinstance(value, str):
            raise TypeError(f"{name} needs a number")
        return test(value, *operands)

    return checked


TESTS: Final[Mapping[str, Callable[..., Any]]] = {
    **{name: _JINJA[name] for name in _CONSTANT_TIME},
    **{name: _bounded(_JINJA[name]) for name in _COMPARED},
    **{name: _of_numbers(name, _JINJA[name]) for name in _OF_NUMBERS},
    "in": _is_in,
}
"""All tests by name."""

COMPARISONS: Final[Mapping[str, Callable[..., Any]]] = {" compared": _compared, " searched": _searched}
"""The filters of operands. Templates cannot name them."""
