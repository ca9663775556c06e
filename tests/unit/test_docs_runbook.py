"""The runbook has an entry for each alert, and the alerts use metrics that exist."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
RULES = (ROOT / "deploy/prometheus/alerts.yaml").read_text("utf-8")
RUNBOOK = (ROOT / "docs/how-to/runbook.md").read_text("utf-8")
METRICS = (ROOT / "docs/reference/metrics.md").read_text("utf-8")


def test_every_alert_has_an_entry_and_no_entry_lacks_one() -> None:
    alerts = re.findall(r"- alert: (\w+)", RULES)

    assert sorted(re.findall(r"^### (Gregor\w+)$", RUNBOOK, re.MULTILINE)) == sorted(alerts)
    assert re.findall(r"runbook: (\S+)", RULES) == [f"docs/how-to/runbook.md#{name.lower()}" for name in alerts]


def test_every_entry_says_what_it_means_and_what_to_do() -> None:
    entries = re.split(r"^### ", RUNBOOK, flags=re.MULTILINE)[1:]

    for entry in entries:
        name, _, text = entry.partition("\n")
        if name.startswith("Gregor"):
            assert "- **Meaning:**" in text, name
            assert "- **Do:**" in text or "- **Look at:**" in text, name


def test_chart_has_the_same_alerts() -> None:
    assert (ROOT / "deploy/helm/gregor/files/rules/gregor.yaml").read_text("utf-8") == RULES


def test_alerts_use_documented_metrics() -> None:
    documented = set(re.findall(r"gregor_\w+", METRICS))
    used = {re.sub(r"_(bucket|count|sum)$", "", name) for name in re.findall(r"\bgregor_\w+", RULES)}

    assert used - documented == set()
