"""docs/reference/python-client.md names only methods and classes that exist, and its examples run."""

import os
import re
import subprocess
import sys
from pathlib import Path

import gregor.client
from gregor.client import AsyncProducer, Device, Producer
from tests.support.scripted_ingest import scripted_ingest

TEXT = (Path(__file__).parents[3] / "docs" / "reference" / "python-client.md").read_text("utf-8")
EXAMPLES = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
ITEM = {"times": {"created": 5}, "for_device": None, "category": "user.joined", "body": {"keybase": "kbob"}}


def test_every_example_compiles() -> None:
    assert len(EXAMPLES) == 3
    for example in EXAMPLES:
        compile(example, "docs/reference/python-client.md", "exec")


def test_backend_example_runs_and_shows_the_ignored_item() -> None:
    receipt = {"cursor": "k-1", "seq": 1, "created": [], "dismissed": [], "ignored": {}}
    entries = [{"line": n, "uid": "alice", "receipt": receipt} for n in range(3)]
    example = EXAMPLES[0].replace('{"keybase": "kbob"}, expires', '{"keybase": "kbob"}, item_id="a", expires')
    with scripted_ingest() as ingest:
        ingest.next = [
            *((200, receipt), (200, {"items": {"a": ITEM}}), (200, receipt), (200, receipt)),
            *((200, {**receipt, "ignored": {"a": "dismissed"}}), (200, b"\n".join(map(_line, entries)))),
            (200, {"entries": [{"id": "a", "gone": None}]}),
        ]
        done = subprocess.run(
            [sys.executable, "-c", example.replace("http://127.0.0.1:8700", ingest.url)],
            env={**os.environ, "GREGOR_KEY": "gk_a_b"}, capture_output=True, text=True, check=False,
        )  # fmt: skip

    assert done.stderr == ""
    assert done.stdout.splitlines() == [str(ITEM), "dismissed", "[1, 1, 1]", "a None"]


def _line(entry: dict[str, object]) -> bytes:
    return str(entry).replace("'", '"').encode()


def test_every_method_and_name_of_the_page_exists() -> None:
    for name in re.findall(r"\bdevice\.([a-z_]+)", TEXT):
        assert hasattr(Device, name) or name == "stopped", name
    for name in re.findall(r"\bproducer\.([a-z_]+)", TEXT):
        assert hasattr(Producer, name) and hasattr(AsyncProducer, name), name
    for names in re.findall(r"from gregor\.client import (.+)", TEXT):
        for name in names.split(", "):
            assert hasattr(gregor.client, name), name
    for name in re.findall(r"^\| (?:↳ )?`([A-Z][A-Za-z]+)`", TEXT, re.MULTILINE):
        assert hasattr(gregor.client, name), name
