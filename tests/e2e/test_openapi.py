"""The OpenAPI document against real processes: no request gets a 5xx or an undocumented response."""

import os
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from tests.support.cluster import Cluster

ROOT = Path(__file__).parents[2]
UID, DEVICE = "alice", "phone"
EXAMPLES = 12
"""Requests for each operation and phase: shape errors show in the first few, and the run stays under two minutes."""
CHECKS = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"


@pytest.mark.timeout(240)
@pytest.mark.parametrize("credential", ["service key", "device token"])
def test_generated_requests_get_no_undocumented_response(cluster: Cluster, tmp_path: Path, credential: str) -> None:
    secret = cluster.key if credential == "service key" else cluster.token(UID, DEVICE)
    command = [
        str(Path(sys.executable).with_name("schemathesis")),
        "run",
        f"{cluster.ingest_urls[0]}/openapi.json",
        "--header",
        f"Authorization: Bearer {secret}",
        "--checks",
        CHECKS,
        "--phases",
        "examples,coverage,fuzzing",
        "--max-examples",
        str(EXAMPLES),
        "--exclude-path-regex",
        "/keys",  # It would delete the key that the requests use.
        "--seed",
        "1",
        "--request-timeout",
        "10",
        "--no-color",
    ]

    hooked = {**os.environ, "SCHEMATHESIS_HOOKS": "tests.support.schemathesis_hooks", "PYTHONPATH": str(ROOT)}
    if credential == "device token":
        hooked |= {"SCHEMATHESIS_UID": UID, "SCHEMATHESIS_DEVICE": DEVICE}
    done = subprocess.run(command, cwd=tmp_path, env=hooked, capture_output=True, text=True, timeout=220)

    assert done.returncode == 0, done.stdout[-12_000:] + done.stderr[-2_000:]


def test_operations_have_responses_and_summary(cluster: Cluster) -> None:
    document = httpx.get(f"{cluster.ingest_urls[0]}/openapi.json", trust_env=False).json()

    assert document["openapi"].startswith("3.1")
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            assert operation["responses"], f"{method} {path}"
            assert operation.get("summary"), f"{method} {path}"
