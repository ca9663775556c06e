"""The OpenAPI document keeps its word: whatever is sent, no 5xx and no answer that it does not name."""

import os
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from tests.support.cluster import Cluster

ROOT = Path(__file__).parents[2]
EXAMPLES = 12
"""Requests an operation and phase: bugs of shape show in the first few, and the whole run stays under two minutes."""
CHECKS = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"


@pytest.mark.timeout(240)
def test_no_request_is_answered_by_a_fault_or_by_something_undocumented(cluster: Cluster, tmp_path: Path) -> None:
    command = [
        str(Path(sys.executable).with_name("schemathesis")),
        "run",
        f"{cluster.ingest_urls[0]}/openapi.json",
        "--header",
        f"Authorization: Bearer {cluster.key}",
        "--checks",
        CHECKS,
        "--phases",
        "examples,coverage,fuzzing",
        "--max-examples",
        str(EXAMPLES),
        "--exclude-path-regex",
        "/keys",  # it would delete the key that it calls with
        "--seed",
        "1",
        "--request-timeout",
        "10",
        "--no-color",
    ]

    hooked = {**os.environ, "SCHEMATHESIS_HOOKS": "tests.support.schemathesis_hooks", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=hooked, capture_output=True, text=True, timeout=220)

    assert done.returncode == 0, done.stdout[-12_000:] + done.stderr[-2_000:]


def test_every_path_of_the_document_names_its_answers_and_who_may_call(cluster: Cluster) -> None:
    document = httpx.get(f"{cluster.ingest_urls[0]}/openapi.json", trust_env=False).json()

    assert document["openapi"].startswith("3.1")
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            assert operation["responses"], f"{method} {path}"
            assert operation.get("summary"), f"{method} {path}"
