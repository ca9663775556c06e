"""A newcomer adds a notification type by following docs/how-to/notification-types.md to the letter."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import httpx

from tests.support.cluster import ROOT, Cluster

PAGE = (ROOT / "docs" / "how-to" / "notification-types.md").read_text("utf-8")
ENTRY = re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)[0]
COMMANDS = [line for block in re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL) for line in block.splitlines() if line]


def follow(line: str, directory: Path, cluster: Cluster) -> subprocess.CompletedProcess[str]:
    """Run a line of the page in a directory."""
    program, *words = shlex.split(line, comments=True)
    assert program == ".venv/bin/gregor"
    environ = {**os.environ, "GREGOR_URL": cluster.ingest_urls[0], "GREGOR_KEY": cluster.key}
    command = [sys.executable, "-c", "from gregor.cli import main; main()", *words]
    return subprocess.run(command, cwd=directory, env=environ, capture_output=True, text=True, timeout=60)


async def test_commands_of_the_page_work_as_written(cluster: Cluster, api: httpx.AsyncClient, tmp_path: Path) -> None:
    (tmp_path / "categories.toml").write_text(ENTRY)
    push = {"provider": "apns", "token": "a-token", "topic": "com.example", "sandbox": False}
    await api.put("/v1/users/alice/devices/phone", json={"platform": "ios", "push": push})
    await api.put("/v1/users/alice/contact", json={"email": "alice@example.com"})

    results = [follow(line, tmp_path, cluster) for line in COMMANDS]

    check, apply, preview, dry_run, sent, state, refused = results
    assert [done.returncode for done in results] == [0, 0, 0, 0, 0, 0, 1], [done.stderr for done in results]
    assert "no errors" in check.stdout and "is active: 1 entry" in apply.stdout
    assert "La fattura 7 è in scadenza" in preview.stdout
    rows = [re.split(r"  +", line) for line in dry_run.stdout.splitlines()]
    planned = rows[1 + next(number for number, row in enumerate(rows) if row[0] == "NOTICE") :]
    assert [(row[0], row[1]) for row in planned] == [
        ("item", "apns"), ("item", "email"), ("remind 0", "apns"), ("remind 0", "email"),
    ]  # fmt: skip
    assert "created" in sent.stdout and "invoice.due" in state.stdout
    assert refused.stderr.startswith("gregor: schema: ") and '"amount" is a required property' in refused.stderr
