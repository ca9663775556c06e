"""The vectors of tests/vectors: equal to the server's values, and passed by the Python client.

After a change of `gregor.conformance.vectors`: `python -m tests.unit.conformance.test_vectors` writes the files.
"""

import json
from pathlib import Path

import pytest
import rfc8785

from gregor.conformance.testee import Testee
from gregor.conformance.vectors import all_vectors, check_vectors
from gregor.core.json_text import canonical_json, decode_published
from tests.unit.conformance.adapters import InProcess

FOLDER = Path(__file__).parents[2] / "vectors"


def text_of(vectors: object) -> str:
    return json.dumps(vectors, indent=1) + "\n"


@pytest.mark.parametrize("name", ["digests", "frames", "messages"])
def test_file_has_the_values_of_the_server(name: str) -> None:
    assert (FOLDER / f"{name}.json").read_text("utf-8") == text_of(all_vectors()[name])


def test_python_client_passes_all_vectors() -> None:
    vectors = {path.stem: json.loads(path.read_text("utf-8")) for path in FOLDER.glob("*.json")}
    results = dict(check_vectors(InProcess(), vectors))

    assert len(results) > 40
    assert {name: difference for name, difference in results.items() if difference is not None} == {}


def test_canonical_form_is_that_of_the_rfc8785_package() -> None:
    for vector in all_vectors()["digests"]:
        for item in decode_published(vector["text"]).values():
            as_doubles = json.loads(json.dumps(item), parse_int=lambda digits: float(digits))
            assert canonical_json(item) == rfc8785.dumps(as_doubles)


def test_wrong_client_is_named_for_each_kind() -> None:
    class Wrong(InProcess):
        def ask(self, do: str, **members: object) -> dict[str, object]:
            answer = super().ask(do, **members)
            return {"digest": ""} if do == "digest" else {**answer, "cursor": ""} if do == "state" else {"send": []}

    results = list(check_vectors(Wrong(), all_vectors()))

    assert all(difference is not None for _, difference in results)


def test_testee_is_a_command() -> None:
    assert issubclass(InProcess, Testee)


if __name__ == "__main__":
    for file, entries in all_vectors().items():
        (FOLDER / f"{file}.json").write_text(text_of(entries), "utf-8")
