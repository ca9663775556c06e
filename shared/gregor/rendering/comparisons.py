"""The comparisons of templates: operators and tests. Each charges the render budget by the size of its operands.

Tests are wrapped here. Operators such as ``==``, ``<`` and ``in`` cannot be wrapped, so the sandbox passes their
operands through ``OPERAND_FILTERS``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, cast

from jinja2 import pass_context
from jinja2.runtime import Context
from jinja2.tests import TESTS as _JINJA_TESTS

from .budget import CONTAINERS, RenderBudget

_JINJA: Final[Mapping[str, Callable[..., Any]]] = cast("Any", _JINJA_TESTS)
_CONSTANT_TIME_TESTS: Final = (
    *("boolean", "defined", "false", "float", "integer", "mapping", "none", "number", "sameas", "sequence", "string"),
    *("true", "undefined"),
)
_COMPARISON_TESTS: Final = (
    *("!=", "<", "<=", "==", ">", ">=", "eq", "equalto", "ge", "greaterthan", "gt", "le", "lessthan", "lower", "lt"),
    *("ne", "upper"),
)
_NUMBER_TESTS: Final = ("divisibleby", "even", "odd")
_FREE_CHARS: Final = 64
"""Characters of a text that is compared without a charge."""


@pass_context
def _charged_operand(context: Context, value: Any) -> Any:
    """Charge for an operand of a comparison, and return it. A short text costs nothing."""
    if isinstance(value, str):
        if len(value) > _FREE_CHARS:
            context.parent[RenderBudget.NAME].charge_content(value)
    elif isinstance(value, CONTAINERS):
        context.parent[RenderBudget.NAME].charge_content(value, is_compared=True)
    return value


@pass_context
def _charged_container(context: Context, value: Any) -> Any:
    """Charge for the right operand of ``in``, and return it. A search in a JSON object takes constant time."""
    return value if isinstance(value, dict) else _charged_operand(context, value)


def _charging_test(test: Callable[..., Any]) -> Callable[..., Any]:
    @pass_context
    def charged(context: Context, value: Any, *operands: Any) -> Any:
        return test(_charged_operand(context, value), *(_charged_operand(context, operand) for operand in operands))

    return charged


@pass_context
def _is_in(context: Context, value: Any, values: Any) -> bool:
    return _charged_operand(context, value) in _charged_container(context, values)


def _number_test(name: str, test: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a test of numbers: it fails for a text, because ``%`` would format it."""

    @pass_context
    def checked(_context: Context, value: Any, *operands: Any) -> Any:
        # `"%99999999d" % 1` would be a text of 100 MB.
        if isinstance(value, str):
            raise TypeError(f"{name} needs a number")
        return test(value, *operands)

    return checked


TESTS: Final[Mapping[str, Callable[..., Any]]] = {
    **{name: _JINJA[name] for name in _CONSTANT_TIME_TESTS},
    **{name: _charging_test(_JINJA[name]) for name in _COMPARISON_TESTS},
    **{name: _number_test(name, _JINJA[name]) for name in _NUMBER_TESTS},
    "in": _is_in,
}
"""All tests by name."""

OPERAND_FILTERS: Final[Mapping[str, Callable[..., Any]]] = {
    " operand": _charged_operand,
    " container": _charged_container,
}
"""Filters that charge for operands. The sandbox inserts them; templates cannot name them."""
