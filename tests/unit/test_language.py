"""The language of the project, as CONTRIBUTING.md ("How to write") states it, measured."""

import ast
import statistics
from pathlib import Path

import pytest

from tests.support import language
from tests.support.language import ROOT, Text

MAX_MEDIAN_TEST_NAME = 45


@pytest.fixture(scope="module")
def product() -> list[Text]:
    paths = [path for folder in language.PRODUCT for path in sorted((ROOT / folder).rglob("*"))]
    return [text for path in paths if path.suffix in (".py", ".lua") for text in language.texts_of(path)]


@pytest.fixture(scope="module")
def frequencies(product: list[Text]) -> dict[str, float]:
    return language.frequencies(product)


@pytest.fixture(scope="module")
def searchable(product: list[Text]) -> str:
    """All prose of the product in lower case, with single spaces."""
    return " ".join(" ".join(text.text.lower().split()) for text in product)


@pytest.fixture(scope="module")
def tests() -> list[Text]:
    return [
        text for path in language.python_files("tests") for text in language.texts_of(path) if text.kind != "string"
    ]


@pytest.fixture(scope="module")
def pages() -> list[Text]:
    return [text for path in language.pages() for text in language.texts_of(path)]


def test_no_dialect_in_the_product(product: list[Text]) -> None:
    assert [*language.dialect(product), *language.repeated_so_that(product)] == []


def test_no_dialect_in_tests(tests: list[Text]) -> None:
    own = {Path(language.__file__), Path(__file__)}

    assert list(language.dialect([text for text in tests if text.path not in own])) == []


def test_no_dialect_in_documentation(pages: list[Text]) -> None:
    assert list(language.dialect([text for text in pages if text.path.name != "CONTRIBUTING.md"])) == []


@pytest.mark.parametrize("expression", [*language.LEAST, *language.MOST])
def test_word_frequencies_of_docstrings(frequencies: dict[str, float], expression: str) -> None:
    assert language.LEAST.get(expression, 0) <= frequencies[expression] <= language.MOST.get(expression, 10_000)


def test_share_of_comments() -> None:
    assert 2 <= language.comment_share(language.python_files(*language.PRODUCT)) <= 6


def test_class_names_are_unique() -> None:
    places = language.class_names(language.python_files(*language.PRODUCT))

    assert {name: found for name, found in places.items() if len(found) > 1} == {}


@pytest.mark.parametrize("term", language.SEARCH_TERMS)
def test_search_terms_lead_to_the_product(term: str, searchable: str) -> None:
    assert term in searchable


def test_names_of_tests_are_short() -> None:
    lengths = [
        len(node.name)
        for path in language.python_files("tests")
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_")
    ]

    assert statistics.median(lengths) <= MAX_MEDIAN_TEST_NAME
