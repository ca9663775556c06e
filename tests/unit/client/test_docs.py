"""docs/reference/python-client.md names only methods and classes that exist. tests/fundamentals runs its examples."""

import re
from pathlib import Path

import gregor.client
from gregor.client import AsyncProducer, Device, Producer

TEXT = (Path(__file__).parents[3] / "docs" / "reference" / "python-client.md").read_text("utf-8")
EXAMPLES = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)


def test_every_example_compiles() -> None:
    assert len(EXAMPLES) == 3
    for example in EXAMPLES:
        compile(example, "docs/reference/python-client.md", "exec")


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
