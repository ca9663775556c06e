"""The language of templates: a part of Jinja2 that always ends, soon and small (categories.md, "Templates").

A template is read before it runs. It may show values, compare and compute, choose (``if``), repeat (``for``) and name
values (``set``); it calls no functions and reaches no attribute of a Python object. What it does is counted in steps as
it goes: each turn of a loop costs the size of what is repeated, a filter the size of what it works on, so a template
stops at a bound that does not depend on how busy the machine is (``MOST_STEPS``; ``MOST_MS`` of processor time beside
it). No value grows beyond ``MOST_CHARS``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from types import CodeType
from typing import Any, Final, cast

import jinja2
from jinja2 import ChainableUndefined, nodes
from jinja2.meta import find_undeclared_variables
from jinja2.runtime import Context, LoopContext
from jinja2.sandbox import ImmutableSandboxedEnvironment

from .filters import FILTERS, LimitExceeded, RenderBudget, SampleValue, shown_text

MOST_STEPS: Final = 50_000
"""Steps of one rendering: one is about the work of showing one value."""
MOST_MS: Final = 100
"""Milliseconds of processor time of one rendering."""
MOST_CHARS: Final = 64 * 1_024
"""Characters of one rendering, and of any value on the way."""
MOST_NODES: Final = 2_000
"""Parts of a template."""
MOST_NESTED: Final = 40
"""Parts of a template within each other."""

VARIABLES: Final = frozenset(
    (
        "body",
        "category",
        "count",
        "created",
        "expires",
        "id",
        "items",
        "locale",
        "text",
        "title",
        "uid",
        "unsubscribe_url",
    )
)
"""What a template sees."""

_ALLOWED: Final = frozenset(
    (
        *(
            "Add",
            "And",
            "Assign",
            "Compare",
            "Concat",
            "CondExpr",
            "Const",
            "Div",
            "Filter",
            "FloorDiv",
            "For",
            "Getattr",
        ),
        *("Getitem", "If", "Keyword", "List", "Mod", "Mul", "Name", "Neg", "Not", "Operand", "Or", "Output", "Pos"),
        *("Slice", "Sub", "Template", "TemplateData", "Test", "Tuple"),
    )
)
_TESTS: Final = frozenset(
    (
        *("!=", "<", "<=", "==", ">", ">=", "boolean", "defined", "divisibleby", "eq", "equalto", "even", "false"),
        *(
            "float",
            "ge",
            "greaterthan",
            "gt",
            "in",
            "integer",
            "le",
            "lessthan",
            "lower",
            "lt",
            "mapping",
            "ne",
            "none",
        ),
        *("number", "odd", "sameas", "sequence", "string", "true", "undefined", "upper"),
    )
)
_LOOP: Final = frozenset(("depth", "first", "index", "index0", "last", "length", "revindex", "revindex0"))
_NUMBERS: Final = (int, float)
_FILE: Final = "<a template of an entry>"
_INSTEAD: Final = {
    "Call": "A template calls no functions; use a filter, as in {{ body.name | upper }}.",
    "Pow": "There is no power operator here.",
    "Dict": "There are no dictionaries here.",
    "Scope": "Escaping cannot be switched off.",
}


class TemplateError(ValueError):
    """Why a template is refused, or why a rendering failed. ``line`` counts from 1; 0 where there is none."""

    def __init__(self, line: int, reason: str) -> None:
        super().__init__(f"line {line}: {reason}" if line else reason)
        self.line = line
        self.reason = reason


class Template:
    """A compiled template. ``names``: the variables it mentions."""

    __slots__ = ("_compiled", "names")

    def __init__(self, compiled: jinja2.Template, names: frozenset[str]) -> None:
        self._compiled = compiled
        self.names = names

    def render(self, variables: Mapping[str, Any]) -> str:
        """The text. Raises ``TemplateError``, and nothing else, where it cannot be made or passes a limit."""
        budget = RenderBudget(MOST_STEPS, MOST_MS, MOST_CHARS)
        context = self._compiled.new_context({**variables, RenderBudget.NAME: budget})
        chunks: list[str] = []
        length = 0
        try:
            for chunk in self._compiled.root_render_func(context):
                length += len(chunk)
                if length > MOST_CHARS:
                    raise LimitExceeded(f"it makes over {MOST_CHARS} characters")
                chunks.append(chunk)
        except LimitExceeded as error:
            raise TemplateError(0, f"{error}.") from None
        except Exception as error:
            raise TemplateError(_line_of(error, self._compiled), _sentence(error)) from None
        return "".join(chunks)

    def check(self) -> None:
        """Render with samples in place of the body: once where all of it is there and true, once where it is not."""
        for is_true in (True, False):
            body = SampleValue(is_true)
            sample = dict.fromkeys(VARIABLES, "sample")
            item = {"id": "sample", "body": body}
            self.render(
                {**sample, "body": body, "count": 3, "items": [item], "created": 1_700_000_000, "expires": None}
            )


def compile_template(source: str, *, is_html: bool = False) -> Template:
    """The template of ``source``; in HTML what it shows is escaped. Raises ``TemplateError``."""
    language = _HTML if is_html else _TEXT
    try:
        tree = language.parse(source)
        names = _check(tree)
        code = language.compile(_Counted().visit(tree), filename=_FILE)
    except jinja2.TemplateSyntaxError as error:
        raise TemplateError(error.lineno, _signs(_sentence(error))) from None
    except (RecursionError, SyntaxError, MemoryError):
        raise TemplateError(0, "It is nested too deep.") from None
    if not isinstance(code, CodeType):
        raise TemplateError(0, "It cannot be compiled.")
    return Template(jinja2.Template.from_code(language, code, {}), names)


def _check(tree: nodes.Template) -> frozenset[str]:
    """Refuses what is not of the language; the names that the template mentions."""
    below: list[tuple[nodes.Node, int]] = [(tree, 0)]
    # Grows while it is walked: no recursion, however deep the template is.
    for count, (node, depth) in enumerate(below):
        kind = type(node).__name__
        if kind not in _ALLOWED:
            line = node.lineno or next((each.lineno for each in node.find_all(nodes.Node) if each.lineno), 0)
            raise TemplateError(line, _INSTEAD.get(kind, f"{_words(kind)} is not part of this language."))
        if count > MOST_NODES or depth > MOST_NESTED:
            raise TemplateError(node.lineno, f"It has over {MOST_NODES} parts, or {MOST_NESTED} within each other.")
        _check_node(node)
        below += [(child, depth + 1) for child in node.iter_child_nodes()]
    unknown = sorted(find_undeclared_variables(tree) - VARIABLES)
    if unknown:
        line = next((node.lineno for node in tree.find_all(nodes.Name) if node.name == unknown[0]), 0)
        raise TemplateError(line, _unknown(unknown[0], VARIABLES, "variable"))
    return frozenset(find_undeclared_variables(tree))


def _check_node(node: nodes.Node) -> None:
    if isinstance(node, nodes.Filter) and node.name not in FILTERS:
        raise TemplateError(node.lineno, _unknown(node.name, FILTERS, "filter"))
    if isinstance(node, nodes.Test) and node.name not in _TESTS:
        raise TemplateError(node.lineno, _unknown(node.name, _TESTS, "test"))
    if isinstance(node, nodes.For) and node.recursive:
        raise TemplateError(node.lineno, "A loop cannot be recursive.")
    # A list of names could hold itself twice, and that one again: what shows it would never end.
    is_list = isinstance(node, nodes.List | nodes.Tuple) and getattr(node, "ctx", "load") == "load"
    if is_list and not all(isinstance(item, nodes.Const) for item in node.iter_child_nodes()):
        raise TemplateError(node.lineno, "A list holds constants only.")
    if isinstance(node, nodes.Name) and node.name in ("caller", "self", "super"):
        raise TemplateError(node.lineno, _unknown(node.name, VARIABLES, "variable"))
    if isinstance(node, nodes.Assign) and not isinstance(node.target, nodes.Name):
        raise TemplateError(node.lineno, "set names one value.")


def _unknown(name: str, known: Iterable[str], kind: str) -> str:
    written = sorted(each for each in known if not each.startswith(" "))
    near = get_close_matches(name, written, 1)
    hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(written)}."
    return f"There is no {kind} {name[:64]}; {hint}"


def _words(kind: str) -> str:
    return "".join(f" {letter.lower()}" if letter.isupper() else letter for letter in kind).strip()


class _Counted(jinja2.visitor.NodeTransformer):
    """Puts a count of steps into each loop, and a bound on each joining of texts."""

    def visit_For(self, node: nodes.For) -> nodes.Node:
        """The loop, over what a filter gives it, which counts each turn as what it costs."""
        self.generic_visit(node)
        weight = 1 + sum(
            1 for part in (*node.body, *([node.test] if node.test else [])) for _ in part.find_all(nodes.Node)
        )
        node.iter = _filter(cast(nodes.Expr, node.iter), " each", nodes.Const(weight))
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        """``a ~ b`` as a filter, which bounds what it makes."""
        self.generic_visit(node)
        first, *others = node.nodes
        return _filter(first, " ~", *others)


def _filter(value: nodes.Expr, name: str, *arguments: nodes.Expr) -> nodes.Filter:
    made = nodes.Filter(value, name, list(arguments), [], None, None)
    return made.set_lineno(value.lineno)  # type: ignore[return-value]


class _Language(ImmutableSandboxedEnvironment):
    """Jinja2 without globals, with our filters, and blind to the attributes of Python objects."""

    intercepted_binops = frozenset(("+", "-", "*", "/", "//", "%", "**"))

    def __init__(self, *, autoescape: bool) -> None:
        super().__init__(
            autoescape=autoescape,
            undefined=ChainableUndefined,
            finalize=shown_text,
            trim_blocks=True,
            lstrip_blocks=True,
            cache_size=0,
        )
        self.globals.clear()
        self.filters = dict(FILTERS)
        self.tests = {name: test for name, test in self.tests.items() if name in _TESTS}

    def getattr(self, obj: Any, attribute: str) -> Any:
        """A member of a JSON object, or what a loop tells of itself."""
        if isinstance(obj, LoopContext):
            return getattr(obj, attribute) if attribute in _LOOP else self.undefined(obj=obj, name=attribute)
        return self.getitem(obj, attribute)

    def getitem(self, obj: Any, argument: Any) -> Any:
        """A member of a JSON object or array, or a part of a text."""
        if isinstance(obj, SampleValue):
            return obj
        if isinstance(obj, ChainableUndefined):
            return obj[argument]
        is_place = isinstance(argument, int | slice)
        if isinstance(obj, Mapping) or (isinstance(obj, list | tuple | str) and is_place):
            try:
                return obj[argument]
            except (LookupError, TypeError):
                pass
        return self.undefined(obj=obj, name=argument)

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """Computes with numbers alone, and none of more digits than anyone needs."""
        if isinstance(left, SampleValue) or isinstance(right, SampleValue):
            return left if isinstance(left, SampleValue) else right
        if not isinstance(left, _NUMBERS) or not isinstance(right, _NUMBERS):
            raise TypeError(f"{operator} computes with numbers; texts are joined with ~")
        result = super().call_binop(context, operator, left, right)
        if isinstance(result, int) and result.bit_length() > 256:
            raise LimitExceeded("it computes a number of over 77 digits")
        return result


_TEXT: Final = _Language(autoescape=False)
_HTML: Final = _Language(autoescape=True)


def _sentence(error: Exception) -> str:
    text = str(error) or type(error).__name__
    text = text if len(text) <= 200 else text[:199] + "…"
    return text if text.endswith((".", "?", "…")) else text + "."


def _signs(sentence: str) -> str:
    """Jinja's names of its own signs as one writes them: `'end of print statement'` is `'}}'`."""
    sentence = sentence.replace("end of print statement", "}}").replace("end of statement block", "%}")
    return sentence[:1].upper() + sentence[1:]


def _line_of(error: Exception, compiled: jinja2.Template) -> int:
    """The line of the template in which an error was raised; 0 where it cannot be told."""
    line, trace = 0, error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == _FILE:
            line = compiled.get_corresponding_lineno(trace.tb_lineno)
        trace = trace.tb_next
    return line
