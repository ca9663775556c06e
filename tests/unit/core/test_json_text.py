"""JSON text: the decoder is strict and explains errors; the encoder is RFC 8785."""

import json
import sys
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import pytest
import rfc8785
from hypothesis import example, given
from hypothesis import strategies as st

from gregor.core.errors import Problem
from gregor.core.json_text import (
    MAX_BOUNDED,
    MAX_INTEGER,
    MAX_POINTERS,
    OUT_OF_RANGE,
    OUT_OF_RANGE_DETAIL,
    canonical_fast,
    canonical_json,
    decode_json,
    decode_published,
    out_of_range_pointers,
    pointer_to,
    split_array,
)
from gregor.core.limits import Limits
from gregor.core.messages.delayed import DelayedMessage, decode_delayed_message
from gregor.core.messages.model import Sender
from gregor.core.messages.parse_fast import parse_fast
from gregor.rendering.renderer import TemplateItem
from tests.support.cpu_time import fastest
from tests.support.python_calls import calls_of

LIMITS = Limits()

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
numbers = st.integers(-MAX_INTEGER, MAX_INTEGER) | st.floats(allow_nan=False, allow_infinity=False)
values = st.recursive(
    st.none() | st.booleans() | numbers | texts,
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(texts, inner, max_size=5),
    max_leaves=20,
)

FRAGMENTS = [
    *('"a"', '"a":', '"', ":", ",", "[", "]", "{", "}", " ", "\n", "\x01", "\\", "\\ud800", "é"),
    *("1", "-", "1.5", "1e400", "9007199254740992", "true", "NaN"),
]


def decoded(raw: bytes) -> Any:
    return decode_json(raw, LIMITS)


def refused(raw: bytes) -> Problem:
    with pytest.raises(Problem) as caught:
        decoded(raw)
    return caught.value


def reference(raw: bytes) -> Any:
    """Decode with the standard library, made strict in a simple way. Raises ``ValueError`` for rejected texts."""

    def members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(dict(pairs)) != len(pairs):
            raise ValueError("repeated key")
        return dict(pairs)

    def constant(word: str) -> None:
        raise ValueError(word)

    def number(value: float) -> float:
        if value in (float("inf"), float("-inf")) or (isinstance(value, int) and abs(value) > MAX_INTEGER):
            raise ValueError("range")
        return value

    value = json.loads(
        raw.decode(),
        object_pairs_hook=members,
        parse_constant=constant,
        parse_int=lambda digits: number(int(digits)),
        parse_float=lambda digits: number(float(digits)),
    )
    json.dumps(value, ensure_ascii=False).encode()
    return value


@given(values, st.booleans(), st.sampled_from([None, 1, "\t"]), st.sampled_from([":", " : ", "\n:\t", ": "]))
def test_decoder_accepts_any_layout(value: Any, is_ascii: bool, indent: Any, colon: str) -> None:
    raw = json.dumps(value, ensure_ascii=is_ascii, indent=indent, separators=(",", colon)).encode()

    assert decoded(raw) == value


@given(st.lists(st.sampled_from(FRAGMENTS), max_size=9))
@example(['{"a":', "1", ",", '"a"', " ", ":", "1", "}"])
@example(['"', "\\ud800", '"'])
@example(["[", "1e400", "]"])
def test_decoder_equals_a_strict_reference_reader(parts: list[str]) -> None:
    raw = "".join(parts).encode()
    try:
        expected = reference(raw)
    except ValueError:
        assert refused(raw).code in ("malformed_json", "number_out_of_range")
    else:
        assert decoded(raw) == expected


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (b"", "empty"),
        (b" \n", "empty"),
        (b"[1,2", "character 4"),
        (b'{"a":1,}', "byte 7"),
        (b"nul", "not valid JSON"),
        (b"NaN", "not valid JSON"),
        (b"[1e400,Infinity]", "Infinity"),
        (b"\xef\xbb\xbf{}", "byte order mark"),
        (b'"\xff"', "UTF-8"),
        (b'"\xed\xa0\x80"', "UTF-8"),
        (b'[1e400,"\xff"]', "UTF-8"),
        (b'{"a":1,"a":1}', 'key "a" is repeated'),
        (b'{"x":{"a":"k\\":","a" :1}}', 'key "a" is repeated'),
        (b'{"a":1,"\\u0061":2}', 'key "a" is repeated'),
        (b'["\\ud800"]', "surrogate"),
        (b'["\\udc00\\ud800"]', "surrogate"),
        (b'{"\\udfff":1}', "surrogate"),
        (b"[" * 65 + b"]" * 65, "nested deeper than 64"),
        (b'{"a":' * 65 + b"1" + b"}" * 65, "nested deeper than 64"),
    ],
)
def test_malformed_json_error_names_the_cause(raw: bytes, words: str) -> None:
    problem = refused(raw)

    assert problem.code == "malformed_json"
    assert words in problem.detail


@pytest.mark.parametrize("opening", [b"[", b'{"a":', b'[{"a":', b"[1e400,["])
def test_deep_nesting_is_rejected_without_recursion(opening: bytes) -> None:
    # a long text may get the error of its number first
    assert refused(opening * 100_000).code in ("malformed_json", *["number_out_of_range"] * (b"1e400" in opening))


def test_nesting_up_to_the_bound_is_accepted() -> None:
    raw = b"[" * 64 + b"]" * 64

    assert json.dumps(decoded(raw)).encode() == raw


@pytest.mark.parametrize(
    ("raw", "pointer"),
    [
        (b"9007199254740992", ""),
        (b"[-9007199254740992]", "/0"),
        (b'{"a/b":[1,{"~":18446744073709551616}]}', "/a~1b/1/~0"),
        (b'{"n":1e400}', "/n"),
        (b'{"n":[0,-1e999999]}', "/n/1"),
        (b'{"n":' + b"1" * 5000 + b"}", "/n"),
    ],
)
def test_number_out_of_range_has_a_pointer(raw: bytes, pointer: str) -> None:
    problem = refused(raw)

    assert problem.code == "number_out_of_range"
    assert [error.pointer for error in problem.errors] == [pointer]
    assert problem.detail.startswith(f"{pointer or 'The document'}: ")


@pytest.mark.parametrize("number", [b"1e999", b"9007199254740993"])
def test_number_out_of_range_in_a_long_text_has_no_pointer(number: bytes) -> None:
    """The search for it would stop the event loop for a fifth of a second."""
    raw = b'{"a":[' + b"[0]," * 60_000 + number + b"]}"

    problem = refused(raw)

    assert (problem.code, problem.errors) == ("number_out_of_range", ())
    assert problem.detail == f"The document: {OUT_OF_RANGE_DETAIL}"


def test_lone_surrogate_in_a_long_text_has_no_pointer() -> None:
    problem = refused(b'["' + b"x" * 40_000 + b'", "\\ud800"]')

    assert (problem.code, problem.detail) == ("malformed_json", "A lone surrogate in the text.")


def test_stand_in_replaces_number_out_of_range() -> None:
    value = decode_json(b'{"a":[1e999,2],"b":9007199254740992,"c":"9007199254740992"}', LIMITS, has_stand_ins=True)

    assert value == {"a": [OUT_OF_RANGE, 2], "b": OUT_OF_RANGE, "c": "9007199254740992"}
    assert out_of_range_pointers(value) == ["/a/0", "/b"]


def test_numbers_at_the_bounds_are_doubles() -> None:
    assert decoded(b"[9007199254740991,-9007199254740991,1e300,1e-400,0.1,-0]") == [
        MAX_INTEGER, -MAX_INTEGER, 1e300, 0.0, 0.1, 0,
    ]  # fmt: skip


@given(values)
@example({"\ue000": 1, "😀": 2, "é": 3, "z": 4})
@example({"a": "".join(map(chr, range(0x80))) + "\u2028\u2029"})
@example([1.0, -0.0, 1e21, 1e20, 1e-7, 0.000001, 5e-324, 333333333.33333329])
@example("5:1.5,[2.5")
def test_canonical_equals_the_rfc8785_library(value: Any) -> None:
    assert canonical_json(value) == rfc8785.dumps(value)


@given(values)
def test_canonical_form_is_stable(value: Any) -> None:
    text = canonical_json(value)

    assert canonical_json(json.loads(text)) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1.0, b"1"),
        (-0.0, b"0"),
        (1e21, b"1e+21"),
        (2**60 + 1, b"1152921504606847000"),
        ({"b": 1, "a": [2**70]}, b'{"a":[1.1805916207174113e+21],"b":1}'),
        ('\x00\x1f\b\t\n\f\r"\\/\x7f\u2028é', b'"\\u0000\\u001f\\b\\t\\n\\f\\r\\"\\\\/\x7f\xe2\x80\xa8\xc3\xa9"'),
        ({"\ue000": 1, "😀": 2}, '{"😀":2,"\ue000":1}'.encode()),
    ],
)
def test_canonical_numbers_escapes_and_order(value: Any, text: bytes) -> None:
    assert canonical_json(value) == text


@pytest.mark.parametrize("value", ["\ud800", ["\udfff"], float("nan"), {"a": float("inf")}])
def test_value_outside_json_has_no_canonical_form(value: Any) -> None:
    with pytest.raises(ValueError):
        canonical_json(value)


def test_a_pointer_escapes_tilde_and_slash() -> None:
    assert pointer_to(["a/b", 0, "m~n"]) == "/a~1b/0/m~0n"
    assert pointer_to([]) == ""


@pytest.mark.parametrize("deep", [1, 60])
def test_exact_decoder_needs_one_call_a_number(deep: int) -> None:
    """The deeply nested text took 1.2 s for 1 MiB: a path was built for each number."""
    count = 20_000
    text = b"[" * deep + b"1.5," * count + b"1e999" + b"]" * deep

    # One call of the decoder for each number, and a few for the whole text.
    assert calls_of(lambda: refused(text)) < 1.1 * count + 500


def test_few_numbers_out_of_range_are_named() -> None:
    value = decode_json(b"[" + b"1e999," * 5_000 + b"0]", LIMITS, has_stand_ins=True)

    assert out_of_range_pointers(value) == [f"/{at}" for at in range(MAX_POINTERS)]


def offenders(value: Any, pointer: str) -> Iterator[tuple[str, str]]:
    """Yield the problem code and the pointer of each offender, by recursion."""
    if isinstance(value, dict):
        for key, member in value.items():
            if key == "\ud800":
                yield "malformed_json", pointer
            yield from offenders(member, pointer_to([key]) if not pointer else pointer + pointer_to([key]))
    elif isinstance(value, list):
        for at, member in enumerate(value):
            yield from offenders(member, f"{pointer}/{at}")
    elif value == "\ud800":
        yield "malformed_json", pointer
    elif value == float("inf"):
        yield "number_out_of_range", pointer


@given(
    st.recursive(
        st.sampled_from(["1", "1e999", '"a"', '"\\ud800"']),
        lambda inner: (
            st.lists(inner, max_size=3).map(lambda parts: f"[{','.join(parts)}]")
            | st.dictionaries(st.sampled_from(["a", "b/~", "\\ud800"]), inner, max_size=3).map(
                lambda parts: "{" + ",".join(f'"{key}":{part}' for key, part in parts.items()) + "}"
            )
        ),
        max_leaves=12,
    )
)
def test_first_offender_is_named_in_document_order(text: str) -> None:
    expected = next(offenders(json.loads(text), ""), None)

    if expected is None:
        decoded(text.encode())
        return
    problem = refused(text.encode())
    code, pointer = expected
    assert problem.code == code
    # The fast decoder reports most lone surrogates without a pointer.
    assert [error.pointer for error in problem.errors] == ([pointer] if code == "number_out_of_range" else [])


@pytest.mark.parametrize(
    "number", [b"9" * 199 + b"e99", b"9" * 250 + b"e99", b"9" * 310, b"1e309", b"1e+400", b"-1E999"]
)
def test_every_infinite_number_is_out_of_range(number: bytes) -> None:
    text = b"[1e308," + number + b",1e999]"
    is_finite = abs(float(number)) < float("inf")

    assert [error.pointer for error in refused(text).errors] == (["/2"] if is_finite and b"e" in number else ["/1"])


# ---- texts of Gregor itself


@given(values)
@example(1e20)
@example([9007199254740992.0, -1.2345678901234567e20, 1e300])
def test_published_value_can_be_sent_again(value: Any) -> None:
    accepted = decoded(json.dumps(value).encode())
    published = canonical_json(accepted)

    for text in (published, published.decode()):
        again = json.dumps(decode_published(text)).encode()
        assert canonical_json(decoded(again)) == published


def test_small_integers_of_a_published_text_stay_integers() -> None:
    assert repr(decode_published(b"[1,-9007199254740991,9007199254740993,1e20]")) == repr(
        [1, -MAX_INTEGER, 9007199254740992.0, 1e20]
    )


@given(st.lists(values, max_size=8), st.integers(0, 8) | st.just(MAX_BOUNDED + 1))
def test_array_is_split_unless_it_is_too_long(elements: list[Any], most: int) -> None:
    raw = json.dumps(elements).encode()

    split = [json.dumps(each).encode() for each in elements]
    assert split_array(raw, most) == (split if len(elements) <= most else None)


@pytest.mark.parametrize("raw", [b"{}", b"1", b'"["', b"null"])
def test_other_value_is_not_split(raw: bytes) -> None:
    for most in (3, MAX_BOUNDED + 1):
        with pytest.raises(msgspec.ValidationError):
            split_array(raw, most)


def test_too_long_array_is_not_read_to_its_end() -> None:
    # What follows the first element too many is not even parsed.
    assert split_array(b"[1,2,3,4 and no JSON", 3) is None


doubles = st.floats(allow_nan=False, allow_infinity=False)
scaled = st.builds(lambda digits, power: digits * 10.0**power, st.integers(-(10**17), 10**17), st.integers(-30, 8))


@given(st.lists(doubles | scaled | st.integers(-(10**22), 10**22).map(float), max_size=20))
@example([1e21, 1e20, 123456789e15, 1e16, 9007199254740992.0, 9007199254740994.0, 1e-6, 1.5e-5, 1e-7, 1.25e-7, -0.0])
def test_doubles_are_written_as_rfc_8785(numbers: list[float]) -> None:
    assert canonical_json(numbers) == rfc8785.dumps(numbers)


# The order of keys with these characters differs by UTF-16 unit and by code point: U+E000 to U+FFFF follow U+10000.
ORDERED_CHARACTERS = [*'az~"\\:\n\x7fé', "\ud7ff", "\ue000", "\ufe0f", "\uffff", "\U00010000", "😀", "\U0010ffff"]
ordered_texts = st.lists(st.sampled_from(ORDERED_CHARACTERS), max_size=4).map("".join)
ordered_values = st.recursive(
    st.none() | st.booleans() | numbers | scaled | ordered_texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(ordered_texts, inner, max_size=6),
    max_leaves=25,
)


@given(ordered_values)
@example(["😀", {"\uffff": 1e-9, "\U00010000": 1e20}])
@example({"😀": {"\ue000": [], "😀": {}}, "\ue000": [[{"b": 1.5, "a😀": 1, "a\ue000": 2}]]})
@example([{'"😀": ': '"😀":', '😀\\"': "😀\\", "\ue000": 1}])
@example({"a": ({"\ue000": 1, "😀": 2},), "😀": (1, 2)})
def test_keys_are_ordered_by_utf_16_units(value: Any) -> None:
    canonical = rfc8785.dumps(value)

    assert canonical_json(value) == canonical
    assert canonical_fast(json.dumps(value).encode(), value, LIMITS, extra_keys=0, brackets=0) in (None, canonical)


@pytest.mark.parametrize("value", [[0.5], {"😀": [0], "\ue000": 0}])
def test_canonical_form_is_written_without_recursion(value: Any) -> None:
    """At some depth, each call took 7 µs more: 0.5 s for a message of 256 KB."""
    calls: list[str] = []
    for _ in range(60):
        value = [value]

    sys.setprofile(lambda frame, event, _: calls.append(frame.f_code.co_name) if event == "call" else None)
    try:
        canonical_json(value)
    finally:
        sys.setprofile(None)
    assert len(calls) < 10


@pytest.mark.parametrize("part", [0, 1e-9, [], {"": 0}, "", {"a": 0, "b": 0}])
@pytest.mark.parametrize(("special", "most"), [("😀", 2.5), ({"\ue000": 0, "😀": 0}, 7)])
def test_supplementary_character_takes_no_long_time(special: Any, most: float, part: Any) -> None:
    """One such character sent the whole text through the package rfc8785, which takes 3 to 17 times as long."""
    parts = [part] * (65_536 // len(canonical_json([part])))

    assert fastest(lambda: canonical_json([special, *parts])) < most * fastest(lambda: canonical_json(["", *parts]))


def numbers_as_a_message(raw: bytes) -> object:
    return parse_fast(b'{"system":"gregor","body":{"create":{"a":{"category":"b","body":%s}}}}' % raw, LIMITS)


def numbers_as_an_item(raw: bytes) -> object:
    return TemplateItem.of_json("a", b'{"category":"b","times":{"created":1},"body":%s}' % raw)


def numbers_as_a_delayed_message(raw: bytes) -> object:
    return decode_delayed_message(DelayedMessage({"body": msgspec.Raw(raw)}, Sender(), 1).encode())


@pytest.mark.parametrize("number", [b"1e300", b"5e-324", b"2.2250738585072011e-308", b"1e-324"])
@pytest.mark.parametrize("read", [decoded, numbers_as_a_message, numbers_as_an_item, numbers_as_a_delayed_message])
def test_extreme_numbers_take_no_long_time(read: Callable[[bytes], object], number: bytes) -> None:
    """msgspec alone takes 30 times as long as the standard library."""
    raw = b"[" + b",".join([number] * 2_000) + b"]"

    assert fastest(lambda: read(raw)) < 8 * fastest(lambda: json.loads(raw))
