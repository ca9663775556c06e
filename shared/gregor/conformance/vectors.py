"""The test vectors that the server and all clients share: digests, frames and messages.

The server computes the expected digests. `tests/vectors` has the vectors as JSON; a test compares both.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from gregor.client.mirror import digest_of
from gregor.core.items import digest as core_digest
from gregor.core.json_text import canonical_json, decode_published

from .testee import Testee, TesteeError

NOW = 1_700_000_000
Document = dict[str, Any]
Vectors = dict[str, list[Document]]


def all_vectors() -> Vectors:
    """Return the vectors by file name."""
    return {"digests": _digests(), "frames": _frames(), "messages": _messages()}


def check_vectors(testee: Testee, vectors: Mapping[str, list[Document]]) -> Iterator[tuple[str, str | None]]:
    """Send each vector to the client. Yields the name of each, and the difference (None if it passed).

    Raises TesteeError if the client does not respond.
    """
    checks = {"digests": _check_digest, "frames": _check_frames, "messages": _check_message}
    for kind, entries in vectors.items():
        for vector in entries:
            name = f"{kind}: {vector['name']}"
            try:
                difference = checks[kind](testee, vector)
            except TesteeError as error:
                raise TesteeError(f"{name}: {error}") from None
            yield name, difference


# Digests.


def item(body: Any = None, category: str = "mail", created: float = NOW, **times: Any) -> Document:
    """Return an item as the server sends it."""
    return {"times": {"created": created, **times}, "for_device": None, "category": category, "body": body}


# JSON texts, because a number has several spellings, and a program may write another one than it has read.
_BODIES = {
    "an empty body": "null",
    "decimals": "[0.1,1.5,1e-7,0.000001,123456789.123]",
    "a negative zero is zero": "[-0,-0.0,0]",
    "large numbers": "[1e21,1e20,100000000000000000000,1e308,9007199254740991]",
    "doubles with the digits of integers": "[9007199254740992.0,1e20,-1e17,999999999999999868928.0]",
    "the same as integers": "[9007199254740992,100000000000000000000,-100000000000000000,999999999999999900000]",
    "the smallest double": "[5e-324,2.2250738585072014e-308]",
    "rounding": "[333333333.33333329,1e23,9007199254740993.0,0.30000000000000004]",
    "supplementary characters": '{"\\ud83d\\ude00":"\\ud83d\\ude00","\\uffff":1,"\\ue000":2,"é":3,"":4}',
    "escapes": '["\\u0000\\u001f\\u007f\\u2028\\b\\t\\n\\f\\r\\"\\\\/"]',
    "names of JavaScript": '{"__proto__":{"a":1},"constructor":1,"toString":2,"hasOwnProperty":3}',
    "keys like integers": '{"10":1,"9":2,"1":3,"01":4,"a":5,"-1":6}',
    "keys like integers at each level": '{"10":0,"2":' * 30 + "[0,1,2,3,4,5,6,7,8,9,{}]" + "}" * 30,
    "depth of 64": "[" * 60 + "0" + "]" * 60,
    "nested objects": '{"b":[{"d":1,"c":[]},{}],"a":{"z":null,"y":true,"x":false}}',
}


def _digests() -> list[Document]:
    texts = {"no items": "{}"}
    for name, body in _BODIES.items():
        head = '"times":{"created":1700000000},"for_device":null,"category":"mail"'
        texts[name] = f'{{"aa":{{{head},"body":{body}}}}}'
    texts["ids like names of JavaScript"] = json.dumps({id_: item() for id_ in ("constructor", "toString", "valueOf")})
    texts["ids like integers"] = json.dumps({id_: item() for id_ in ("10", "9", "1", "01", "a")})
    texts["decimal times"] = json.dumps(
        {"aa": item(created=1700000000.000001, expires=1700000000.5, remind_at=[1.5, 2])}
    )
    texts["members of a newer server"] = json.dumps({"aa": {**item(), "priority": 1, "tags": ["x"]}})
    return [{"name": name, "text": text, "digest": server_digest(text)} for name, text in texts.items()]


def server_digest(text: str) -> str:
    """Return the digest of a JSON object of items, as the server computes it."""
    items = decode_published(text)
    return core_digest.digest_items((id_, canonical_json(value)) for id_, value in items.items()).hex()


def _check_digest(testee: Testee, vector: Document) -> str | None:
    digest = testee.ask("digest", text=vector["text"])["digest"]
    return None if digest == vector["digest"] else f"the digest is {digest}, not {vector['digest']}"


# Frames.


def sync(kind: str, seq: int, items: Document | None = None, tag: str = "aaaaaa", **members: Any) -> Document:
    """Return a sync object. `items` gives the digest; for `full`, also the contents."""
    document: Document = {"system": "gregor", "sync": kind, "seq": seq, "cursor": f"{tag}-{seq}"}
    if items is not None:
        document["digest"] = digest_of(items)
    if kind == "full":
        document["body"] = {"create": items or {}}
    return document | members


def live(seq: int, **body: Any) -> Document:
    """Return a live frame."""
    return {"system": "gregor", "seq": seq, "body": body}


def _after(items: Document, cursor: str, badge: int) -> Document:
    return {"items": items, "cursor": cursor, "badge": badge}


A, B, C = item(1), item(2), item(3, "quiet")
WELCOME = {"welcome": {"expires_in": 60, "ping": 25, "uncounted": ["quiet"]}}
START = [WELCOME, sync("full", 5, {"a": A, "b": B})]
PATCH = {"dismiss": {"ids": ["a"]}, "create": {"c": C}}
NO_COPY: Document = {"items": {}, "cursor": None, "badge": 0}
RESYNC = [{"resync": True}]
_FRAMES: list[tuple[str, list[Document], Document, list[Document]]] = [
    ("nothing before the first sync", [WELCOME], NO_COPY, []),
    ("a full copy", START, {"items": {"a": A, "b": B}, "cursor": "aaaaaa-5", "badge": 2}, []),
    ("a full copy replaces", [*START, sync("full", 2, {"c": C}, "bbbbbb")], _after({"c": C}, "bbbbbb-2", 0), []),
    (
        "a delta",
        [*START, sync("delta", 7, {"b": B, "c": C}, body=PATCH)],
        _after({"b": B, "c": C}, "aaaaaa-7", 1),
        [],
    ),
    (
        "a repeated delta",
        [*START, *[sync("delta", 7, {"b": B, "c": C}, body=PATCH)] * 2],
        _after({"b": B, "c": C}, "aaaaaa-7", 1),
        [],
    ),
    (
        "a delayed delta is not applied",
        [
            *START,
            live(8, dismiss={"ids": ["b"]}),
            sync("delta", 6, {"a": A, "b": B, "c": C}, body={"create": {"c": C}}),
        ],
        _after({"a": A}, "aaaaaa-8", 1),
        [],
    ),
    ("unchanged moves the cursor", [*START, sync("unchanged", 9)], _after({"a": A, "b": B}, "aaaaaa-9", 2), []),
    ("a live frame", [*START, live(6, **PATCH)], _after({"b": B, "c": C}, "aaaaaa-6", 1), []),
    ("gaps between live frames", [*START, live(60, **PATCH)], _after({"b": B, "c": C}, "aaaaaa-60", 1), []),
    ("an old live frame", [*START, live(5, **PATCH)], _after({"a": A, "b": B}, "aaaaaa-5", 2), []),
    (
        "the first frame of an epoch",
        [*START, {**live(1, create={"c": C}), "cursor": "cccccc-1"}],
        _after({"a": A, "b": B, "c": C}, "cccccc-1", 2),
        [],
    ),
    (
        "dismissal and creation of one id",
        [*START, live(6, dismiss={"ids": ["a"]}, create={"a": C})],
        _after({"a": C, "b": B}, "aaaaaa-6", 1),
        [],
    ),
    (
        "an unknown id is dismissed",
        [*START, live(6, dismiss={"ids": ["zz"]})],
        _after({"a": A, "b": B}, "aaaaaa-6", 2),
        [],
    ),
    (
        "an external message moves the cursor",
        [*START, {"system": "kbfs", "seq": 6, "body": {}}],
        _after({"a": A, "b": B}, "aaaaaa-6", 2),
        [],
    ),
    (
        "a flush keeps the copy",
        [*START, {**live(6, flush=True), "spread": 30}],
        _after({"a": A, "b": B}, "aaaaaa-6", 2),
        [],
    ),
    (
        "an expired item is not shown",
        [WELCOME, sync("full", 5, {"a": item(expires=NOW), "b": B})],
        _after({"b": B}, "aaaaaa-5", 1),
        [],
    ),
    (
        "a wrong digest asks for a full copy",
        [*START, sync("unchanged", 6, {})],
        _after({"a": A, "b": B}, "aaaaaa-6", 2),
        RESYNC,
    ),
    (
        "a full copy repairs",
        [*START, sync("unchanged", 6, {}), sync("full", 6, {"c": C})],
        _after({"c": C}, "aaaaaa-6", 0),
        RESYNC,
    ),
    (
        "a wrong full copy is asked for once",
        [WELCOME, *[{**sync("full", 5, {"a": A}), "digest": "0" * 64}] * 3],
        _after({"a": A}, "aaaaaa-5", 1),
        RESYNC,
    ),
    (
        "unknown members and frames",
        [*START, {"novelty": 1}, {**live(6, create={"c": C}), "novelty": 2}],
        _after({"a": A, "b": B, "c": C}, "aaaaaa-6", 2),
        [],
    ),
]


def _frames() -> list[Document]:
    return [
        {"name": name, "now": NOW, "frames": frames, "state": state, "sends": sends}
        for name, frames, state, sends in _FRAMES
    ]


def _check_frames(testee: Testee, vector: Document) -> str | None:
    testee.ask("start", now=vector["now"])
    testee.ask("open", now=vector["now"])
    texts = [json.dumps(frame) for frame in vector["frames"]]
    sends = [frame for frame in testee.ask("receive", now=vector["now"], frames=texts)["send"] if "pong" not in frame]
    if sends != vector["sends"]:
        return f"the client sends {sends}, not {vector['sends']}"
    return _difference(testee.ask("state", now=vector["now"]), vector["state"])


def _difference(state: Document, expected: Document) -> str | None:
    for member, value in expected.items():
        if state[member] != value:
            return f"{member}: {state[member]!r}, not {value!r}"
    return None


# Messages: the frame that a client sends for a message of the application, and the items that it shows meanwhile.


def _gregor(body: Document) -> Document:
    return {"system": "gregor", "body": body}


def _same(body: Document) -> tuple[Document, Document]:
    """Return the message of the application and the message to send, which are equal."""
    return _gregor(body), _gregor(body)


EVERY = {"category_prefix": ""}
COPY = {"a": item(created=10), "b": item(created=20), "q": item(category="quiet", created=30)}
_MESSAGES: list[tuple[str, Document, Document, bool, list[str]]] = [
    ("dismissal by id", *_same({"dismiss": {"ids": ["a"]}}), False, ["b", "q"]),
    ("creation", *_same({"create": {"n": {"category": "mail"}}}), False, ["a", "b", "n", "q"]),
    (
        "creation of a known id changes nothing",
        *_same({"create": {"a": {"category": "mail"}}}),
        False,
        ["a", "b", "q"],
    ),
    (
        "an open interval ends at the newest item of the copy",
        _gregor({"dismiss": {"intervals": [EVERY]}}),
        _gregor({"dismiss": {"intervals": [{**EVERY, "end": 30}]}}),
        False,
        [],
    ),
    (
        "an open interval of one category",
        _gregor({"dismiss": {"intervals": [{"category": "mail"}]}}),
        _gregor({"dismiss": {"intervals": [{"category": "mail", "end": 20}]}}),
        False,
        ["q"],
    ),
    (
        "an open interval that catches nothing needs an id",
        *_same({"dismiss": {"intervals": [{"category": "x"}]}}),
        True,
        ["a", "b", "q"],
    ),
    (
        "an interval with an end",
        *_same({"dismiss": {"intervals": [{"category": "mail", "end": 10}]}}),
        False,
        ["b", "q"],
    ),
    (
        "skipped ids stay",
        _gregor({"dismiss": {"intervals": [{**EVERY, "skip": ["b"]}]}}),
        _gregor({"dismiss": {"intervals": [{**EVERY, "skip": ["b"], "end": 30}]}}),
        False,
        ["b"],
    ),
    (
        "a prefix covers whole segments",
        *_same({"dismiss": {"intervals": [{"category_prefix": "mai", "end": 50}]}}),
        False,
        ["a", "b", "q"],
    ),
    (
        "a message does not dismiss its own creation",
        *_same({"create": {"n": {"category": "mail"}}, "dismiss": {"intervals": [{"category": "mail"}]}}),
        False,
        ["n", "q"],
    ),
    (
        "an external message needs an id",
        {"system": "kbfs", "body": {"n": 1}},
        {"system": "kbfs", "body": {"n": 1}},
        True,
        ["a", "b", "q"],
    ),
    ("a flush needs an id", *_same({"flush": True}), True, ["a", "b", "q"]),
]


def _messages() -> list[Document]:
    return [
        {"name": name, "now": NOW, "copy": COPY, "dispatch": given, "sends": sent, "adds_id": adds_id, "shows": shown}
        for name, given, sent, adds_id, shown in _MESSAGES
    ]


def _check_message(testee: Testee, vector: Document) -> str | None:
    now = vector["now"]
    testee.ask("start", now=now)
    testee.ask("open", now=now)
    testee.ask("receive", now=now, frames=[json.dumps(sync("full", 5, vector["copy"]))])
    sends = testee.ask("dispatch", now=now, message=vector["dispatch"])["send"]
    if len(sends) != 1 or "ref" not in sends[0]:
        return f"the client sends {sends}, not one message with a ref"
    message = {name: value for name, value in sends[0].items() if name != "ref"}
    if vector["adds_id"] and not message.pop("id", None):
        return "the message has no id: a repeat would have a second effect"
    if message != vector["sends"]:
        return f"the client sends {message}, not {vector['sends']}"
    shown = sorted(testee.ask("state", now=now)["items"])
    return None if shown == vector["shows"] else f"the client shows {shown}, not {vector['shows']}"
