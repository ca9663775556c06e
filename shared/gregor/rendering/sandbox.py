"""The template sandbox: a subset of Jinja2 whose templates always finish, with bounded time and size.

A template is checked before it runs. It may show values, compare and compute, and use ``if``, ``for`` and ``set``. It
cannot call functions, and cannot reach attributes of Python objects. Rendering counts steps: an iteration of a loop is
charged by the size of the loop body, a filter, test or comparison by the size of its operands. The limit ``MAX_STEPS``
therefore does not depend on the load of the machine; ``MAX_MS`` of CPU time is a second limit. No text grows beyond
``MAX_CHARS``, and no integer beyond ``MAX_BITS``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from types import CodeType
from typing import Any, Final, cast

import jinja2
from jinja2 import ChainableUndefined, nodes
from jinja2.meta import find_undeclared_variables
from jinja2.runtime import Context, LoopContext
from jinja2.sandbox import ImmutableSandboxedEnvironment

from gregor.core.validation import similar_name

from .budget import MAX_BITS, LimitExceeded, RenderBudget, check_bits
from .comparisons import OPERAND_FILTERS, TESTS
from .filters import ATTRIBUTE_ARGUMENT, FILTERS, SampleValue, finalize

MAX_STEPS: Final = 50_000
"""Steps of one rendering. One step is about the work of showing one value."""
MAX_MS: Final = 100
"""Milliseconds of CPU time of one rendering."""
MAX_CHARS: Final = 64 * 1_024
"""Characters of one rendering, and of any intermediate value."""
MAX_NODES: Final = 2_000
"""Syntax nodes of a template."""
MAX_DEPTH: Final = 40
"""Nesting depth of a template."""

VARIABLES: Final = frozenset(
    (
        "body",
        "category",
        "count",
        "created",
        "expires",
        "id",
        "items",
        "link",
        "locale",
        "text",
        "title",
        "uid",
        "unsubscribe_url",
    )
)
"""The variables of a template."""

# ---- the language

# An allow-list: a node type that a later Jinja2 adds stays forbidden.
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
_LOOP: Final = frozenset(("depth", "first", "index", "index0", "last", "length", "revindex", "revindex0"))
_NUMBERS: Final = (int, float)
_MANY_DIGITS: Final = "A number has more than 77 digits."
_MAX_SHOWN_NAME: Final = 64
_NO_MEMBER: Final = "This value has no such member."
_FILE: Final = "<a template of an entry>"
_INSTEAD: Final = {
    "Call": "Templates cannot call functions. Use a filter, such as {{ body.name | upper }}.",
    "Pow": "The power operator is not supported.",
    "Dict": "Dictionaries are not supported.",
    "Scope": "Escaping cannot be disabled.",
}


# ---- compiled templates


class TemplateError(ValueError):
    """A template is invalid, or a rendering failed. ``line`` counts from 1; 0 if unknown."""

    def __init__(self, line: int, reason: str) -> None:
        super().__init__(f"line {line}: {reason}" if line else reason)
        self.line = line
        self.reason = reason


class Template:
    """A compiled template. ``names``: the variables that it uses."""

    __slots__ = ("_compiled", "names")

    def __init__(self, compiled: jinja2.Template, names: frozenset[str]) -> None:
        self._compiled = compiled
        self.names = names

    def render(self, variables: Mapping[str, Any]) -> str:
        """Return the text. Raises only ``TemplateError``, if it fails or exceeds a limit."""
        budget = RenderBudget(MAX_STEPS, MAX_MS, MAX_CHARS)
        context = self._compiled.new_context({**variables, RenderBudget.NAME: budget})
        chunks: list[str] = []
        length = 0
        try:
            for chunk in self._compiled.root_render_func(context):
                length += len(chunk)
                if length > MAX_CHARS:
                    raise LimitExceeded(f"the text is longer than {MAX_CHARS} characters")
                chunks.append(chunk)
        except LimitExceeded as error:
            raise TemplateError(0, f"{error}.") from None
        except Exception as error:
            raise TemplateError(_line_of(error, self._compiled), _sentence(error)) from None
        return "".join(chunks)

    def check(self) -> None:
        """Render twice with sample bodies: one has every member and all are true, the other is empty."""
        for is_true in (True, False):
            body = SampleValue(is_true)
            sample = dict.fromkeys(VARIABLES, "sample")
            item = {"id": "sample", "body": body}
            self.render(
                {**sample, "body": body, "count": 3, "items": [item], "created": 1_700_000_000, "expires": None}
            )


def compile_template(source: str, *, is_html: bool = False) -> Template:
    """Check and compile a template. Values are escaped if ``is_html``. Raises ``TemplateError``."""
    language = _HTML if is_html else _TEXT
    try:
        tree = language.parse(source)
        names = _check(tree)
        code = language.compile(_StepCounter().visit(tree), filename=_FILE)
    except jinja2.TemplateSyntaxError as error:
        raise TemplateError(error.lineno, _signs(_sentence(error))) from None
    except (RecursionError, SyntaxError, MemoryError):
        raise TemplateError(0, "The template is nested too deeply.") from None
    except ValueError as error:
        if isinstance(error, TemplateError):
            raise
        # Python refuses decimals of more than 4,300 digits.
        raise TemplateError(0, _MANY_DIGITS) from None
    if not isinstance(code, CodeType):
        raise TemplateError(0, "The template cannot be compiled.")
    return Template(jinja2.Template.from_code(language, code, {}), names)


# ---- checks before a template runs


def _check(tree: nodes.Template) -> frozenset[str]:
    """Refuse everything outside of the language. Returns the names of the variables in use."""
    below: list[tuple[nodes.Node, int]] = [(tree, 0)]
    # The list grows during the iteration. Recursion could exceed Python's limit on a deep template.
    for count, (node, depth) in enumerate(below):
        kind = type(node).__name__
        if kind not in _ALLOWED:
            line = node.lineno or next((each.lineno for each in node.find_all(nodes.Node) if each.lineno), 0)
            raise TemplateError(line, _INSTEAD.get(kind, f"{_construct_name(kind)} is not supported in templates."))
        if count > MAX_NODES or depth > MAX_DEPTH:
            raise TemplateError(
                node.lineno, f"The template has more than {MAX_NODES} parts, or more than {MAX_DEPTH} nested ones."
            )
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
    if isinstance(node, nodes.Test) and node.name not in TESTS:
        raise TemplateError(node.lineno, _unknown(node.name, TESTS, "test"))
    if isinstance(node, nodes.For) and node.recursive:
        raise TemplateError(node.lineno, "Recursive loops are not supported.")
    # `{% set a = [a, a] %}`, repeated, would build a list of exponential size.
    is_list = isinstance(node, nodes.List | nodes.Tuple) and getattr(node, "ctx", "load") == "load"
    if is_list and not all(isinstance(item, nodes.Const) for item in node.iter_child_nodes()):
        raise TemplateError(node.lineno, "A list may contain only constants.")
    if isinstance(node, nodes.Name) and node.name in ("caller", "self", "super"):
        raise TemplateError(node.lineno, _unknown(node.name, VARIABLES, "variable"))
    if isinstance(node, nodes.Const) and isinstance(node.value, int) and node.value.bit_length() > MAX_BITS:
        raise TemplateError(node.lineno, _MANY_DIGITS)
    if isinstance(node, nodes.Assign) and not isinstance(node.target, nodes.Name):
        raise TemplateError(node.lineno, "{% set %} must assign one name.")
    if isinstance(node, nodes.Name) and node.name == "loop" and node.ctx != "load":
        raise TemplateError(node.lineno, "loop is the name of the loop itself. Choose another name.")
    _check_members(node)


def _check_members(node: nodes.Node) -> None:
    """Refuse member accesses that reach for Python attributes, in all forms that the language has."""
    if isinstance(node, nodes.Filter):
        for name in _attribute_arguments(node):
            for part in name.split("."):
                _check_member_name(node.lineno, part)
        return
    if isinstance(node, nodes.Getattr):
        name = node.attr
    elif isinstance(node, nodes.Getitem) and isinstance(node.arg, nodes.Const) and isinstance(node.arg.value, str):
        name = node.arg.value
    else:
        return
    _check_member_name(node.lineno, name)
    if isinstance(node.node, nodes.Const | nodes.List | nodes.Tuple):
        raise TemplateError(
            node.lineno, f'A constant has no member "{name[:64]}". Use a filter, such as {{{{ "a" | upper }}}}.'
        )
    if isinstance(node.node, nodes.Name) and node.node.name == "loop" and name not in _LOOP:
        raise TemplateError(node.lineno, _unknown(name, _LOOP, "member of loop"))


def _check_member_name(line: int, name: str) -> None:
    if name.startswith("_"):
        detail = f'The name "{name[:64]}" begins with an underscore and cannot be used. Rename this member of the body.'
        raise TemplateError(line, detail)


def _attribute_arguments(node: nodes.Filter) -> Iterator[str]:
    """Yield the attribute names that a filter gets, such as ``a.b`` in ``map(attribute="a.b")``."""
    arguments: list[nodes.Node] = [pair.value for pair in node.kwargs if pair.key == "attribute"]
    at = ATTRIBUTE_ARGUMENT.get(node.name)
    if at is not None:
        arguments += node.args[at : at + 1]
    for argument in arguments:
        if isinstance(argument, nodes.Const) and isinstance(argument.value, str):
            yield argument.value


def _unknown(name: str, known: Iterable[str], kind: str) -> str:
    written = sorted(each for each in known if not each.startswith(" "))
    near = similar_name(name, written)
    hint = f"did you mean {near}?" if near else f"known are {', '.join(written)}."
    return f"Unknown {kind} {name[:64]}; {hint}"


def _construct_name(kind: str) -> str:
    return "".join(f" {letter.lower()}" if letter.isupper() else letter for letter in kind).strip()


# ---- limits while a template runs


class _StepCounter(jinja2.visitor.NodeTransformer):
    """Inserts filters into loops, slices, concatenations and comparisons.

    The filters charge the render budget and limit sizes.
    """

    def visit_For(self, node: nodes.For) -> nodes.Node:
        """Iterate over the filter `` each``, which charges every iteration with the size of the loop body."""
        self.generic_visit(node)
        weight = 1 + sum(
            1 for part in (*node.body, *([node.test] if node.test else [])) for _ in part.find_all(nodes.Node)
        )
        node.iter = _filter(cast(nodes.Expr, node.iter), " each", nodes.Const(weight))
        return node

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Node:
        """Pass a slice through the filter `` sliced``, which charges for the copy."""
        self.generic_visit(node)
        return _filter(node, " sliced") if isinstance(node.arg, nodes.Slice) else node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        """Replace ``a ~ b`` by the filter `` ~``, which limits the size of the result."""
        self.generic_visit(node)
        first, *others = node.nodes
        return _filter(first, " ~", *others)

    def visit_Compare(self, node: nodes.Compare) -> nodes.Node:
        """Charge for the operands, unless one is a constant, which limits the work: ``body.n > 5``."""
        self.generic_visit(node)
        operands: list[nodes.Compare | nodes.Operand] = [node, *node.ops]
        is_search = any(operation.op in ("in", "notin") for operation in node.ops)
        if not is_search and any(isinstance(operand.expr, nodes.Const) for operand in operands) and len(node.ops) == 1:
            return node
        for operand in operands:
            if not isinstance(operand.expr, nodes.Const | nodes.List | nodes.Tuple):
                is_container = isinstance(operand, nodes.Operand) and operand.op in ("in", "notin")
                operand.expr = _filter(operand.expr, " container" if is_container else " operand")
        return node


def _filter(value: nodes.Expr, name: str, *arguments: nodes.Expr) -> nodes.Filter:
    made = nodes.Filter(value, name, list(arguments), [], None, None)
    return made.set_lineno(value.lineno)  # type: ignore[return-value]


# ---- the Jinja2 environment


class _SandboxEnvironment(ImmutableSandboxedEnvironment):
    """Jinja2 without globals, with our filters, and without access to attributes of Python objects."""

    intercepted_binops = frozenset(("+", "-", "*", "/", "//", "%", "**"))

    def __init__(self, *, autoescape: bool) -> None:
        super().__init__(
            autoescape=autoescape,
            undefined=ChainableUndefined,
            finalize=finalize,
            trim_blocks=True,
            lstrip_blocks=True,
            cache_size=0,
        )
        # `range`, `dict`, `lipsum` and others are callables, which templates cannot use.
        self.globals.clear()
        self.filters = {**FILTERS, **OPERAND_FILTERS}
        self.tests = dict(TESTS)

    def getattr(self, obj: Any, attribute: str) -> Any:
        """Return a member of a JSON object, or an attribute of ``loop``."""
        if isinstance(obj, LoopContext):
            return getattr(obj, attribute) if attribute in _LOOP else self._missing(obj, attribute)
        return self.getitem(obj, attribute)

    def getitem(self, obj: Any, argument: Any) -> Any:
        """Return a member of a JSON object or array, or a slice of a text."""
        if isinstance(obj, SampleValue):
            return obj
        if isinstance(obj, ChainableUndefined):
            return obj
        is_place = isinstance(argument, int | slice)
        if isinstance(obj, Mapping) or (isinstance(obj, list | tuple | str) and is_place):
            try:
                return obj[argument]
            except (LookupError, TypeError):
                pass
        return self._missing(obj, argument)

    def _missing(self, obj: Any, name: Any) -> ChainableUndefined:
        # An error shows the name by `repr`, which takes seconds for a list that contains one text many times.
        is_short = isinstance(name, int) or (isinstance(name, str) and len(name) <= _MAX_SHOWN_NAME)
        made = self.undefined(obj=obj, name=name) if is_short else self.undefined(hint=_NO_MEMBER)
        return cast(ChainableUndefined, made)

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """Compute with numbers of at most 77 digits; refuse other operands."""
        if isinstance(left, SampleValue) or isinstance(right, SampleValue):
            return left if isinstance(left, SampleValue) else right
        if not isinstance(left, _NUMBERS) or not isinstance(right, _NUMBERS):
            raise TypeError(f"{operator} needs numbers; join texts with ~")
        result = super().call_binop(context, operator, left, right)
        if isinstance(result, int):
            check_bits(result)
        return result


_TEXT: Final = _SandboxEnvironment(autoescape=False)
_HTML: Final = _SandboxEnvironment(autoescape=True)


# ---- error texts


def _sentence(error: Exception) -> str:
    text = str(error) or type(error).__name__
    text = text if len(text) <= 200 else text[:199] + "…"
    return text if text.endswith((".", "?", "…")) else text + "."


def _signs(sentence: str) -> str:
    """Replace Jinja's names of tokens by the tokens: ``end of print statement`` by ``}}``."""
    sentence = sentence.replace("end of print statement", "}}").replace("end of statement block", "%}")
    return sentence[:1].upper() + sentence[1:]


def _line_of(error: Exception, compiled: jinja2.Template) -> int:
    """Return the template line that raised an error; 0 if unknown."""
    line, trace = 0, error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == _FILE:
            line = compiled.get_corresponding_lineno(trace.tb_lineno)
        trace = trace.tb_next
    return line
