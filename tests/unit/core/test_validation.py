"""All errors of a document are reported at once, the first gives the code, and typing errors get hints."""

from typing import Any

import pytest

from gregor.core.errors import Problem
from gregor.core.limits import Limits
from gregor.core.messages.parse import parse_message
from gregor.core.validation import MAX_ERRORS, ValidationErrors


def refusal(document: Any) -> Problem:
    with pytest.raises(Problem) as caught:
        parse_message(document, Limits())
    return caught.value


@pytest.mark.parametrize("document", [{"s" * 250_000: 1}, {"system": "gregor", "body": {"b" * 250_000: 1}}])
def test_long_names_are_shortened_in_the_response(document: Any) -> None:
    """An unknown field of 250 KB was repeated twice."""
    response = refusal(document).document()

    assert len(str(response)) < 4_000
    (unknown,) = [each for each in response["errors"] if "…" in each["pointer"]]
    assert unknown["detail"].startswith("Unknown field; known fields are ")


def test_all_errors_are_reported_together() -> None:
    items = {"x": {"times": {"created": -1, "expires": "soon"}, "for_device": "a b"}}

    problem = refusal(
        {"system": "gregor", "body": {"create": items, "dismiss": {"intervals": [{"begin": 2, "end": 1}]}}}
    )

    assert problem.code == "missing_field"
    assert [error.pointer for error in problem.errors] == [
        "/body/create/x/category",
        "/body/create/x/for_device",
        "/body/create/x/times/created",
        "/body/create/x/times/expires",
        "/body/dismiss/intervals/0/category",
        "/body/dismiss/intervals/0/begin",
    ]
    assert problem.detail.startswith("/body/create/x/category: ")


def test_similar_field_is_suggested() -> None:
    item = {"category": "c", "times": {"expire": 5}}

    (error,) = refusal({"system": "gregor", "body": {"create": {"x": item}}}).errors

    assert 'did you mean "expires"?' in error.detail


def test_unknown_field_lists_the_known_ones() -> None:
    (error,) = refusal({"system": "s", "body": 1, "zzz": 1}).errors

    assert "body, device, id, not_before, system" in error.detail


def test_number_of_errors_is_limited() -> None:
    ids = ["a b"] * 1_000

    assert len(refusal({"system": "gregor", "body": {"dismiss": {"ids": ids}}}).errors) == MAX_ERRORS


def test_many_unknown_fields_stay_cheap() -> None:
    document = {"system": "s", "body": 1} | {f"{n}{'x' * 10_000}": n for n in range(25)}

    assert len(refusal(document).errors) == MAX_ERRORS


def test_valid_document_raises_nothing() -> None:
    errors = ValidationErrors()

    errors.raise_if_any()

    assert not errors.has_errors
