"""Measures the language of the project: word frequencies, dialect words, class names (CONTRIBUTING.md, "How to write").

``python -m tests.support.language PATH …`` prints the findings of some files; without a path, those of all files.
"""

from __future__ import annotations

import ast
import io
import re
import sys
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]
PRODUCT: Final = ("shared", "services")

SEARCH_TERMS: Final = (
    "backpressure",
    "slow consumer",
    "circuit breaker",
    "deduplicate",
    "middleware",
    "snapshot",
    "observer",
    "fan-out",
    "enqueue",
    "coalesce",
    "rate limit",
    "retry",
    "heartbeat",
    "lease",
    "throttle",
    "transaction",
    "pagination",
    "cleanup",
    "idempotent",
    "invalidate",
)
"""The words with which an engineer searches for a mechanism. Each leads to at least one product file."""

LEAST: Final = {"if": 60.0}
"""Occurrences for each 10,000 words of docstrings: lower bounds."""

MOST: Final = {
    "where": 15.0,
    "what": 15.0,
    "who|whoever": 2.0,
    "told|tells?": 2.0,
    "so that": 4.0,
}
"""Occurrences for each 10,000 words of docstrings: upper bounds."""

DIALECT: Final = {
    r"anew": "again",
    r"mend(?:s|ed|ing)?": "fix, repair, resync",
    r"heal(?:s|ed|ing)?": "fix, repair, resync",
    r"figures?": "metrics",
    r"onlookers?|looks? on": "observer",
    r"lookers?": "decision",
    r"what is due": "due work",
    r"hand(?:s|ed|ing)? over|handover": "enqueue, publish, send",
    r"put(?:s|ting)? off": "postpone, retry later",
    r"is no (?!longer|more than|less than|need|way|such|limit|other)[a-z]+": "is not a valid …",
    r"nobody|whoever": "name the actor",
    r"the like": "similar",
    r"had by": "held by",
    r"of (?:its|their|one's|his|our) own": "own",
    r"call(?:s|ed|ing)? off|taken? back|takes back|taking back": "cancelled, withdrawn",
    r"(?:it|that|which|one|nothing|everything|still) stands": "is stored, is valid, remains",
    r"no more of": "no longer",
}
"""Expressions of the old dialect, and what replaces each."""

_DIALECT: Final = re.compile("|".join(f"(?P<w{n}>\\b(?:{word})\\b)" for n, word in enumerate(DIALECT)), re.IGNORECASE)
_CODE: Final = re.compile(r"``.+?``|`[^`\n]+`|\"[A-Z][^\"\n]*\"")


@dataclass(frozen=True)
class Text:
    """One piece of prose: its kind (``docstring``, ``comment``, ``string``, ``page``), its place, its words."""

    kind: str
    path: Path
    line: int
    text: str


def python_files(*folders: str) -> list[Path]:
    """Return the Python files below some folders of the project."""
    return [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]


def texts_of(path: Path) -> Iterator[Text]:
    """Yield the prose of one file: docstrings, comments and sentences in strings, or a whole page."""
    source = path.read_text("utf-8")
    if path.suffix == ".lua":
        for number, line in enumerate(source.splitlines(), 1):
            if "--" in line:
                yield Text("comment", path, number, line.split("--", 1)[1])
        return
    if path.suffix != ".py":
        yield Text(
            "page", path, 1, re.sub(r"```.*?```", lambda found: "\n" * found[0].count("\n"), source, flags=re.DOTALL)
        )
        return
    docstrings = set()
    tree = ast.parse(source)
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        for statement in body if isinstance(body, list) else ():
            if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
                docstrings.add(id(statement.value))
                if isinstance(statement.value.value, str):
                    yield Text("docstring", path, statement.lineno, statement.value.value)
    for node in ast.walk(tree):
        if not isinstance(node, ast.Constant) or id(node) in docstrings:
            continue
        if isinstance(node.value, str) and len(node.value.split()) >= 3:
            yield Text("string", path, node.lineno, node.value)
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT and not re.match(r"# *(type:|noqa|pragma)", token.string):
            yield Text("comment", path, token.start[0], token.string)


def frequencies(texts: list[Text]) -> dict[str, float]:
    """Count each measured expression for every 10,000 words of the docstrings among ``texts``."""
    prose = " ".join(_CODE.sub(" ", text.text) for text in texts if text.kind == "docstring").lower()
    words = max(1, len(re.findall(r"[a-z']+", prose)))
    return {
        expression: len(re.findall(rf"\b(?:{expression})\b", prose)) * 10_000 / words for expression in [*LEAST, *MOST]
    }


def dialect(texts: list[Text]) -> Iterator[str]:
    """Yield a line for each expression of the old dialect: place, expression, replacement."""
    replacements = list(DIALECT.values())
    for text in texts:
        for found in _DIALECT.finditer(_CODE.sub(lambda code: " " * len(code[0]), text.text)):
            place = f"{text.path.relative_to(ROOT)}:{text.line + text.text.count(chr(10), 0, found.start())}"
            instead = replacements[int((found.lastgroup or "w0")[1:])]
            yield f"{place} {text.kind}: {found[0]!r}, write: {instead}"


def repeated_so_that(texts: list[Text]) -> Iterator[str]:
    """Yield the files that say "so that" more than once."""
    counts: dict[Path, int] = {}
    for text in texts:
        if text.kind in ("docstring", "comment"):
            counts[text.path] = counts.get(text.path, 0) + len(re.findall(r"\bso\s+that\b", text.text, re.IGNORECASE))
    for path, count in counts.items():
        if count > 1:
            yield f"{path.relative_to(ROOT)}: 'so that' {count} times, at most once a file"


def class_names(paths: list[Path]) -> dict[str, list[str]]:
    """Return the places of each class by its name."""
    places: dict[str, list[str]] = {}
    for path in paths:
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.ClassDef):
                places.setdefault(node.name, []).append(f"{path.relative_to(ROOT)}:{node.lineno}")
    return places


def comment_share(paths: list[Path]) -> float:
    """Return the share of comment lines among the lines of code (without blank lines and docstrings), in per cent."""
    comments = code = 0
    for path in paths:
        source = path.read_text("utf-8")
        inside = {
            line
            for node in ast.walk(ast.parse(source))
            if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
            for line in range(node.lineno, (node.end_lineno or node.lineno) + 1)
        }
        for number, line in enumerate(source.splitlines(), 1):
            if line.strip() and number not in inside:
                code += 1
                comments += line.lstrip().startswith("#") or "  # " in line
    return 100 * comments / max(1, code)


def pages() -> list[Path]:
    """Return the Markdown pages of the project."""
    return [*sorted((ROOT / "docs").rglob("*.md")), *sorted(ROOT.glob("*.md"))]


def main(arguments: list[str]) -> None:
    """Print the findings of some files or folders."""
    chosen = [Path(argument).resolve() for argument in arguments] or [ROOT / folder for folder in (*PRODUCT, "tests")]
    paths = [
        path
        for place in chosen
        for path in ([place] if place.is_file() else sorted(place.rglob("*")))
        if path.suffix in (".py", ".lua", ".md")
    ]
    texts = [text for path in paths for text in texts_of(path)]
    for line in [*dialect(texts), *repeated_so_that(texts)]:
        print(line)
    for expression, frequency in frequencies(texts).items():
        aim = f">= {LEAST[expression]:g}" if expression in LEAST else f"<= {MOST[expression]:g}"
        print(f"{expression:12} {frequency:6.1f} for each 10,000 words of docstrings (aim {aim})")
    python = [path for path in paths if path.suffix == ".py"]
    print(f"comments     {comment_share(python):6.1f} % of the lines of code (aim 2 to 6 %)")


if __name__ == "__main__":
    main(sys.argv[1:])
