"""Parsing of messages: those of the original Gregor are accepted; each error has its code and pointer."""

import copy
import json
from typing import Any

import pytest

from gregor.core.errors import ERRORS, Problem
from gregor.core.json_text import OUT_OF_RANGE, decode_json
from gregor.core.limits import Limits
from gregor.core.messages.model import ExternalMessage, Interval, Message, NewItem, Offset, Update, UserReset
from gregor.core.messages.parse import parse_message

LIMITS = Limits()

SEED_CREATION = b"""{
    "system" : "gregor",
    "body" : {
        "create" : {
            "5d44d2ad9aabab30" : {
                "times" : {
                    "created" : 1457056447,
                    "expires" : 1488592477,
                    "remind_at" : [ 1457402098 ] },
                "for_device" : null,
                "category" : "user.joined",
                "body" : {
                    "social_media_name" : "bob@twitter",
                    "keybase" : "kbob",
                    "uid" : "f8da58e5a6d0d0800f361bc139015a19"
                }
            }
        }, "dismiss" : {}
    }
}"""


def parse(text: bytes | dict[str, Any] | Any, limits: Limits = LIMITS) -> Message:
    raw = text if isinstance(text, bytes) else json.dumps(text).encode()
    return parse_message(decode_json(raw, limits), limits)


def gregor(**body: Any) -> dict[str, Any]:
    return {"system": "gregor", "body": body}


def create(item: Any, item_id: str = "x") -> dict[str, Any]:
    return gregor(create={item_id: item})


def item(**members: Any) -> dict[str, Any]:
    return create({"category": "a.b", **members})


def timed(**times: Any) -> dict[str, Any]:
    return item(times=times)


def interval(**members: Any) -> dict[str, Any]:
    return gregor(dismiss={"intervals": [members]})


def update(text: bytes | dict[str, Any]) -> Update:
    content = parse(text).content
    assert isinstance(content, Update)
    return content


def only_item(text: dict[str, Any]) -> NewItem:
    (made,) = update(text).create
    return made


def test_creation_of_the_original_gregor() -> None:
    body = b'{"keybase":"kbob","social_media_name":"bob@twitter","uid":"f8da58e5a6d0d0800f361bc139015a19"}'

    made = NewItem(
        id="5d44d2ad9aabab30",
        category="user.joined",
        created_us=1457056447_000_000,
        expires=1488592477_000_000,
        remind_at=(1457402098_000_000,),
        for_device=None,
        body=body,
    )
    assert parse(SEED_CREATION) == Message(Update(create=(made,)))


def test_dismissal_of_the_original_gregor() -> None:
    text = b'{ "system" : "gregor", "body" : { "dismiss" : { "ids" : [ "5d44d2ad9aabab30" ] }  } }'

    assert parse(text) == Message(Update(ids=("5d44d2ad9aabab30",)))


def test_device_item_of_the_original_gregor() -> None:
    text = b"""{"system":"gregor","body":{"create":{"aabbccee":{
        "times":{"created":140000,"expires":150000,"remind_at":[142000,143000]},
        "for_device":"33aabb","category":"user.joined","body":{"keybase":"kbob"}}}}}"""

    (made,) = update(text).create

    assert (made.for_device, made.remind_at) == ("33aabb", (142000_000_000, 143000_000_000))


def test_flush_and_external_of_the_original_gregor() -> None:
    external = b'{"system": "kbfs.favorites", "body": { "action": "delete", "tlf": "/private/alice,max" } }'

    assert parse(b'{ "system": "gregor", "body" : { "flush": true } }') == Message(UserReset())
    assert parse(external).content == ExternalMessage(
        "kbfs.favorites", b'{"action":"delete","tlf":"/private/alice,max"}'
    )


def test_a_message_may_name_itself_and_its_sender() -> None:
    message = parse({**item(), "id": "m-1", "device": "phone"})

    assert (message.id, message.device) == ("m-1", "phone")


@pytest.mark.parametrize(
    "members",
    [
        {},
        {"times": None, "for_device": None, "body": None},
        {"times": {}},
        {"times": []},
        {"times": {"created": None, "expires": None, "remind_at": None}},
        {"times": {"remind_at": []}},
    ],
)
def test_null_absent_and_empty_are_the_same_item(members: dict[str, Any]) -> None:
    assert only_item(item(**members)) == NewItem("x", "a.b", None, None, (), None, b"null")


@pytest.mark.parametrize(
    "dismiss", [None, {}, [], {"ids": None, "intervals": None}, {"ids": [], "intervals": []}, "absent"]
)
def test_null_and_empty_are_the_same_dismissal(dismiss: Any) -> None:
    body: dict[str, Any] = {"create": {"x": {"category": "a.b"}}} | (
        {} if dismiss == "absent" else {"dismiss": dismiss}
    )

    assert parse(gregor(**body)) == parse(item())
    assert parse({**gregor(**body), "id": None, "device": None}) == parse(item())


def test_reminders_are_sorted_and_unique() -> None:
    made = only_item(timed(expires="+31536000", remind_at=["+10", 20, 100.5, "+10.0", 20.0, "+9"]))

    assert made.expires == Offset(31536000_000_000)
    assert made.remind_at == (20_000_000, 100_500_000, Offset(9_000_000), Offset(10_000_000))


def test_external_body_may_be_any_json() -> None:
    bodies: list[Any] = [None, 1.0, [], "é"]

    assert [parse({"system": "s", "body": body}).content for body in bodies] == [
        ExternalMessage("s", b"null"),
        ExternalMessage("s", b"1"),
        ExternalMessage("s", b"[]"),
        ExternalMessage("s", '"é"'.encode()),
    ]


def test_interval_has_category_or_normal_prefix() -> None:
    said = [
        {"category": "a.b", "begin": 1, "end": 2.5, "skip": ["k", "l", "k"]},
        {"category_prefix": "a."},
        {"category_prefix": "", "category": None, "begin": None, "skip": None},
    ]

    assert update(gregor(dismiss={"intervals": said})).intervals == (
        Interval("a.b", False, 1_000_000, 2_500_000, frozenset({"k", "l"})),
        Interval("a", True, None, None, frozenset()),
        Interval("", True, None, None, frozenset()),
    )


def test_a_repeated_id_in_a_dismissal_counts_once() -> None:
    assert update(gregor(dismiss={"ids": ["b", "a", "b"]})).ids == ("b", "a")


BIG = "é" * 9_000
BAD: list[tuple[Any, str, str]] = [
    # the message
    ([], "invalid", ""),
    ("x", "invalid", ""),
    (None, "invalid", ""),
    ({"system": "Gregor", "body": {"create": {}}}, "invalid_id", "/system"),
    ({"system": "GREGOR", "body": 1}, "invalid_id", "/system"),
    ({"system": None, "body": {}}, "missing_field", "/system"),
    ({"system": "gregor"}, "missing_field", "/body"),
    ({"system": "gregor", "body": None}, "missing_field", "/body"),
    ({"system": "kbfs"}, "missing_field", "/body"),
    ({"system": 7, "body": {}}, "invalid_id", "/system"),
    ({"system": "", "body": {}}, "invalid_id", "/system"),
    ({"system": "a..b", "body": {}}, "invalid_id", "/system"),
    ({"system": "gregor", "body": []}, "invalid", "/body"),
    ({"system": "gregor", "body": "x"}, "invalid", "/body"),
    ({"system": "gregor", "body": {}}, "invalid", "/body"),
    (gregor(create={}, dismiss={}), "invalid", "/body"),
    (gregor(create=None, dismiss={"ids": [], "intervals": None}), "invalid", "/body/dismiss"),
    (gregor(dismiss={"ids": []}), "invalid", "/body/dismiss"),
    (gregor(dismiss={}), "invalid", "/body/dismiss"),
    ({**item(), "extra": 1}, "unknown_field", "/extra"),
    ({**item(), "a/b~c": 1}, "unknown_field", "/a~1b~0c"),
    ({**item(), "id": ""}, "invalid_id", "/id"),
    ({**item(), "id": 5}, "invalid_id", "/id"),
    ({**item(), "device": "a b"}, "invalid_id", "/device"),
    ({**item(), "device": "*"}, "invalid_id", "/device"),
    # flush
    (gregor(flush=False), "invalid", "/body/flush"),
    (gregor(flush=1), "invalid", "/body/flush"),
    (gregor(flush=True, create={"x": {"category": "c"}}), "invalid", "/body/create"),
    (gregor(flush=True, dismiss={"ids": ["x"]}), "invalid", "/body/dismiss"),
    (gregor(flush=True, spread=3), "unknown_field", "/body/spread"),
    # create
    (gregor(create=[1]), "invalid", "/body/create"),
    (gregor(create="x"), "invalid", "/body/create"),
    (gregor(creates={}), "unknown_field", "/body/creates"),
    (create(None), "invalid", "/body/create/x"),
    (create([]), "invalid", "/body/create/x"),
    (create({}), "missing_field", "/body/create/x/category"),
    (create({"category": None}), "missing_field", "/body/create/x/category"),
    (create({"category": ""}), "invalid_id", "/body/create/x/category"),
    (create({"category": "a."}), "invalid_id", "/body/create/x/category"),
    (create({"category": 3}), "invalid_id", "/body/create/x/category"),
    (create({"category": "c" * 129}), "invalid_id", "/body/create/x/category"),
    (create({"category": "c"}, ""), "invalid_id", "/body/create/"),
    (create({"category": "c"}, "a/b"), "invalid_id", "/body/create/a~1b"),
    (create({"category": "c"}, "a" * 129), "invalid_id", "/body/create/" + "a" * 129),
    (create({"category": "c"}, "x\n"), "invalid_id", "/body/create/x\n"),
    (item(expires=5), "unknown_field", "/body/create/x/expires"),
    (item(for_device=""), "invalid_id", "/body/create/x/for_device"),
    (item(for_device="**"), "invalid_id", "/body/create/x/for_device"),
    (item(for_device=["a"]), "invalid_id", "/body/create/x/for_device"),
    (item(body=BIG), "body_too_large", "/body/create/x/body"),
    (gregor(create={str(n): {"category": "c"} for n in range(101)}), "too_many", "/body/create"),
    # times
    (item(times=5), "invalid", "/body/create/x/times"),
    (item(times=0), "invalid", "/body/create/x/times"),
    (timed(expire=5), "unknown_field", "/body/create/x/times/expire"),
    (timed(created="+5"), "invalid", "/body/create/x/times/created"),
    (timed(created=True), "invalid", "/body/create/x/times/created"),
    (timed(created=-1), "time_out_of_range", "/body/create/x/times/created"),
    (timed(expires="5"), "invalid", "/body/create/x/times/expires"),
    (timed(expires=[]), "invalid", "/body/create/x/times/expires"),
    (timed(expires=2**33), "time_out_of_range", "/body/create/x/times/expires"),
    (timed(remind_at=5), "invalid", "/body/create/x/times/remind_at"),
    (timed(remind_at={}), "invalid", "/body/create/x/times/remind_at"),
    (timed(remind_at=[1, None]), "invalid", "/body/create/x/times/remind_at/1"),
    (timed(remind_at=["+"]), "invalid", "/body/create/x/times/remind_at/0"),
    (timed(remind_at=list(range(17))), "too_many", "/body/create/x/times/remind_at"),
    # dismiss
    (gregor(dismiss="x"), "invalid", "/body/dismiss"),
    (gregor(dismiss={"id": ["x"]}), "unknown_field", "/body/dismiss/id"),
    (gregor(dismiss={"ids": "x"}), "invalid", "/body/dismiss/ids"),
    (gregor(dismiss={"ids": ["x", 5]}), "invalid_id", "/body/dismiss/ids/1"),
    (gregor(dismiss={"ids": [["x"]]}), "invalid_id", "/body/dismiss/ids/0"),
    (gregor(dismiss={"ids": [str(n) for n in range(1001)]}), "too_many", "/body/dismiss/ids"),
    (gregor(create={"x": {"category": "c"}}, dismiss={"ids": ["y", "x"]}), "contradictory", "/body/dismiss/ids/1"),
    (gregor(dismiss={"intervals": {}}), "invalid", "/body/dismiss/intervals"),
    (gregor(dismiss={"intervals": [None]}), "invalid", "/body/dismiss/intervals/0"),
    (gregor(dismiss={"intervals": [{"category": "c"}] * 33}), "too_many", "/body/dismiss/intervals"),
    (interval(), "missing_field", "/body/dismiss/intervals/0/category"),
    (interval(category=""), "invalid_id", "/body/dismiss/intervals/0/category"),
    (interval(category="a."), "invalid_id", "/body/dismiss/intervals/0/category"),
    (interval(category_prefix=".a"), "invalid_id", "/body/dismiss/intervals/0/category_prefix"),
    (interval(category_prefix=5), "invalid_id", "/body/dismiss/intervals/0/category_prefix"),
    (interval(category="a", category_prefix="a"), "invalid", "/body/dismiss/intervals/0/category_prefix"),
    (interval(category="a", begin=2, end=1), "invalid", "/body/dismiss/intervals/0/begin"),
    (interval(category="a", begin="+2"), "invalid", "/body/dismiss/intervals/0/begin"),
    (interval(category="a", end=-1), "time_out_of_range", "/body/dismiss/intervals/0/end"),
    (interval(category="a", until=1), "unknown_field", "/body/dismiss/intervals/0/until"),
    (interval(category="a", skip="x"), "invalid", "/body/dismiss/intervals/0/skip"),
    (interval(category="a", skip=["x", ""]), "invalid_id", "/body/dismiss/intervals/0/skip/1"),
    (interval(category="a", skip=[str(n) for n in range(1001)]), "too_many", "/body/dismiss/intervals/0/skip"),
]


@pytest.mark.parametrize(("document", "code", "pointer"), BAD)
def test_each_error_has_its_code_and_pointer(document: Any, code: str, pointer: str) -> None:
    with pytest.raises(Problem) as caught:
        parse(document)

    problem = caught.value
    assert (problem.code, [error.pointer for error in problem.errors]) == (code, [pointer])
    assert ERRORS[code].status == 422
    assert problem.errors[0].detail.strip()


WHOLE = {
    "system": "gregor",
    "id": "m",
    "device": "phone",
    "not_before": 5,
    "body": {
        "create": {
            "x": {
                "category": "c",
                "for_device": "phone",
                "times": {"created": 1, "expires": 2, "remind_at": [3]},
                "body": {"a": [1, {"b": 2}]},
            }
        },
        "dismiss": {"ids": ["y"], "intervals": [{"category": "c", "begin": 1, "end": 2, "skip": ["z"]}]},
    },
}
TIMES = ("/created", "/expires", "/remind_at/0", "/begin", "/end", "/not_before")


def places(value: Any, path: str = "") -> list[str]:
    """Return the pointers of all values in a document except itself."""
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [found for key, member in pairs for found in (f"{path}/{key}", *places(member, f"{path}/{key}"))]


def with_stand_in(document: Any, pointer: str) -> Any:
    document = copy.deepcopy(document)
    *steps, last = pointer.split("/")[1:]
    place = document
    for step in steps:
        place = place[int(step) if isinstance(place, list) else step]
    place[int(last) if isinstance(place, list) else last] = OUT_OF_RANGE
    return document


@pytest.mark.parametrize("pointer", places(WHOLE))
def test_number_out_of_range_is_rejected_anywhere(pointer: str) -> None:
    with pytest.raises(Problem) as caught:
        parse_message(with_stand_in(WHOLE, pointer), LIMITS)

    assert [error.pointer for error in caught.value.errors] == [pointer]
    if pointer.endswith(TIMES):
        assert caught.value.code == "time_out_of_range"
    if pointer.startswith("/body/create/x/body"):
        assert caught.value.code == "number_out_of_range"


@pytest.mark.parametrize("offset", ["+1h", "2h", "+90"])
def test_not_before_offset_asks_for_unix_seconds(offset: str) -> None:
    with pytest.raises(Problem) as caught:
        parse_message({"system": "kbfs", "body": 1, "not_before": offset}, LIMITS)

    [error] = caught.value.errors
    assert (caught.value.code, error.pointer) == ("invalid", "/not_before")
    assert error.detail.startswith(f'not_before does not accept offsets such as "{offset}": it must be Unix seconds')


def test_each_number_out_of_range_is_listed() -> None:
    with pytest.raises(Problem) as caught:
        parse_message({"system": "kbfs", "body": [OUT_OF_RANGE, {"a": OUT_OF_RANGE}]}, LIMITS)

    assert caught.value.code == "number_out_of_range"
    assert [error.pointer for error in caught.value.errors] == ["/body/0", "/body/1/a"]


def test_values_at_their_limits_are_accepted() -> None:
    limits = Limits(creations=2, ids=2, intervals=2, skip=2, reminders=2, body_bytes=4)
    many = {"x": {"category": "c", "body": "ab", "times": {"remind_at": [1, 2]}}, "y": {"category": "c"}}
    dismiss = {"ids": ["a", "b"], "intervals": [{"category": "c", "begin": 1, "end": 1, "skip": ["k", "l"]}] * 2}

    content = parse(gregor(create=many, dismiss=dismiss), limits).content

    assert isinstance(content, Update)
    assert (len(content.create), len(content.ids), len(content.intervals)) == (2, 2, 2)


def test_body_size_is_that_of_canonical_json() -> None:
    document = gregor(create={"x": {"category": "c", "body": [1.0, 2.0]}})

    assert parse(document, Limits(body_bytes=5)).content == Update((NewItem("x", "c", None, None, (), None, b"[1,2]"),))
    with pytest.raises(Problem):
        parse(document, Limits(body_bytes=4))


def details(document: Any) -> dict[str, str]:
    """Return the errors of a document: pointer to detail."""
    with pytest.raises(Problem) as caught:
        parse(document)
    return {error.pointer: error.detail for error in caught.value.errors}


def test_empty_message_lacks_both_system_and_body() -> None:
    assert details({}).keys() == {"/system", "/body"}


@pytest.mark.parametrize("member", ["create", "dismiss", "flush"])
def test_body_member_beside_system_gets_a_hint(member: str) -> None:
    expected = {f"/{member}": f'"{member}" belongs into "body"; did you mean body.{member}?'}

    assert details({"system": "gregor", member: {}}) == expected


def test_body_member_alone_also_lacks_the_system() -> None:
    assert details({"create": {"x": {"category": "c"}}}).keys() == {"/create", "/system"}


@pytest.mark.parametrize("member", ["created", "expires", "remind_at"])
def test_time_beside_category_gets_a_hint(member: str) -> None:
    assert f"did you mean times.{member}?" in details(item(**{member: 5}))[f"/body/create/x/{member}"]


@pytest.mark.parametrize(
    ("document", "pointer", "shape"),
    [
        ([], "", '{"system": "gregor", "body": {…}}'),
        (gregor(create=[{"category": "c"}]), "/body/create", '{"<id>": {"category": "…", "body": …}}'),
        (gregor(dismiss=["a"]), "/body/dismiss", '{"ids": ["…"]} or {"intervals": [{"category": "…"}]}'),
        ({"system": "gregor", "body": ["a"]}, "/body", '{"create": {"<id>": {"category": "…"}}} or {"dismiss"'),
        (item(times=["+5"]), "/body/create/x/times", '{"expires": "+1d"}'),
        (create("c"), "/body/create/x", '{"category": "…", "body": …}'),
    ],
)
def test_value_of_the_wrong_type_gets_an_example(document: Any, pointer: str, shape: str) -> None:
    assert shape in details(document)[pointer]


def test_empty_dismiss_is_not_reported_as_absent() -> None:
    assert details(gregor(dismiss={"ids": []})) == {
        "/body/dismiss": 'dismiss has no "ids" and no "intervals", so it would dismiss nothing.'
    }


@pytest.mark.parametrize("system", ["Gregor", "GREGOR", "gREGOR"])
def test_other_spelling_of_gregor_gets_a_hint(system: str) -> None:
    assert 'did you mean "gregor"?' in details({"system": system, "body": {"create": {}}})["/system"]


@pytest.mark.parametrize("empty", [[], {}, None])
def test_empty_creation_is_named(empty: object) -> None:
    found = details({"system": "gregor", "body": {"create": empty}})

    assert list(found) == ["/body"]
    assert found["/body"].startswith("create is empty: it must be an object with at least one item")
