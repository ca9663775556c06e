"""docs/reference/python-client.md speaks of what there is."""

import re
from pathlib import Path

import gregor.client
from gregor.client import Device, Producer

TEXT = (Path(__file__).parents[3] / "docs" / "reference" / "python-client.md").read_text("utf-8")


def test_every_example_is_python_that_compiles() -> None:
    examples = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)

    assert len(examples) == 2
    for example in examples:
        compile(example, "docs/reference/python-client.md", "exec")


def test_every_call_and_name_of_the_page_exists() -> None:
    for name in re.findall(r"\bdevice\.([a-z_]+)", TEXT):
        assert hasattr(Device, name) or name == "stopped", name
    for name in re.findall(r"\bproducer\.([a-z_]+)", TEXT):
        assert hasattr(Producer, name), name
    for names in re.findall(r"from gregor\.client import (.+)", TEXT):
        for name in names.split(", "):
            assert hasattr(gregor.client, name), name
