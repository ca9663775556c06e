"""The metrics page, the code, the alerts and the boards name the same metrics."""

from __future__ import annotations

import json
import re
import runpy
from collections.abc import Iterable
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from gregor.canary.metrics import CanaryMetrics
from gregor.config.live_settings import LiveSettings
from gregor.config.settings import Settings
from gregor.metrics.process import Metrics
from gregor.tracing.exporter import OtlpExporter
from gregor_delivery.metrics import DeliveryMetrics
from gregor_gateway.metrics import GatewayMetrics
from gregor_scheduler.metrics import SchedulerMetrics

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/reference/metrics.md").read_text("utf-8")
RULES = (ROOT / "deploy/prometheus/alerts.yaml").read_text("utf-8")
RUNBOOK = (ROOT / "docs/how-to/runbook.md").read_text("utf-8")
LABELS = {
    *("aggregator", "by", "channel", "code", "event", "field", "found", "hash", "kind", "limit", "method", "outcome"),
    *("python", "reason", "result", "route", "server", "stage", "state", "status", "transport", "use", "verdict"),
    "version",
}
"""No label names a user, a device or an item: each of them would be a series."""
HISTOGRAMS = {
    "gregor_event_loop_lag_seconds",
    "gregor_http_request_seconds",
    "gregor_deliver_seconds",
    "gregor_timer_lateness_seconds",
    "gregor_tick_seconds",
    "gregor_delivery_send_seconds",
    "gregor_delivery_age_seconds",
    *(f"gregor_canary_{name}_seconds" for name in ("connect", "publish", "receive", "timer_late")),
}
ROW = re.compile(r"^\| `([a-z_]+)(?:\{([a-z,]+)\})?` \| (.+?) \| (.+?) \| (.+?) \| (.+?) \|$", re.MULTILINE)
ROWS = {found[0]: found for found in ROW.findall(PAGE)}


def registries() -> Iterable[CollectorRegistry]:
    """The registry of each service."""
    gateway = GatewayMetrics()
    OtlpExporter("http://127.0.0.1:4318", "gateway", gateway.registry)
    yield gateway.registry
    yield CanaryMetrics().registry
    for of_service in (SchedulerMetrics, DeliveryMetrics):
        metrics = Metrics()
        of_service(metrics.registry)
        yield metrics.registry


def test_counters_of_alerts_begin_at_zero() -> None:
    """Prometheus sees no increase from a missing series to 1: an alert about one failure would never fire."""
    compared = set(re.findall(r"increase\((gregor_\w+)(?:\{[^}]*\})?\[\w+\]\)\) (?:> 0|> sum)", RULES))
    series = {each.name for registry in registries() for metric in registry.collect() for each in metric.samples}
    live = LiveSettings(Settings())

    assert {"gregor_timers_total", "gregor_delivery_failures_total"} < compared
    # Four counters begin elsewhere: with the settings, the jobs and the aggregators of a process.
    elsewhere = {f"gregor_{name}_total" for name in ("secret_reloads", "jobs", "job_users", "aggregator_failures")}
    assert compared - series == elsewhere
    assert dict(live.reloads) == {"reloaded": 0, "refused": 0}
    metrics = Metrics()
    metrics.expect_jobs(["rewrite"])
    assert b'gregor_jobs_total{kind="rewrite",state="failed"} 0.0' in metrics.exposition()


def exported() -> dict[str, tuple[str, ...]]:
    """The labels of each metric by its name, from the code."""
    found = {}
    for registry in registries():
        for family in registry.collect():
            name = f"{family.name}_total" if family.type == "counter" else family.name
            found[name] = tuple(getattr(registry._names_to_collectors.get(name), "_labelnames", ()))
    return found


def family_of(name: str) -> str:
    """Return the metric of a series: histograms have three."""
    base = re.sub(r"_(bucket|count|sum)$", "", name)
    return base if base in ROWS else name


def named_in(text: str) -> set[str]:
    """Return the metrics that an expression names. Recorded series have a colon."""
    return {family_of(name) for name in re.findall(r"(?<![\w:])(?:gregor|process)_\w+", text)}


def test_page_lists_exactly_the_metrics_of_the_code() -> None:
    metrics = exported()

    assert set(ROWS) == set(metrics)
    assert {name: row[1] for name, row in ROWS.items()} == {name: ",".join(labels) for name, labels in metrics.items()}
    assert len([name for name in metrics if name.startswith("gregor_")]) >= 60
    assert not re.findall(r"^\| `(?!.*\|.*\|.*\|.*\|.*\|$).*$", PAGE, re.MULTILINE)


def test_no_metric_has_a_user_label() -> None:
    assert {label for labels in exported().values() for label in labels} == LABELS


def test_units_follow_from_the_names() -> None:
    for name, (_, _, unit, *_) in ROWS.items():
        base = name.removesuffix("_total")
        if base.endswith("_seconds"):
            assert "seconds" in unit, name
        if base.endswith("_bytes"):
            assert unit == "bytes", name
        assert ("histogram" in unit) == (name in HISTOGRAMS), name


def test_alerts_use_only_metrics_that_exist() -> None:
    assert named_in(" ".join(re.findall(r"expr: .*|^ {10}\S.*", RULES, re.MULTILINE))) - set(exported()) == set()


def alerts_by_metric() -> dict[str, set[str]]:
    """Return the alerts that read each metric, also by a recorded series."""
    recorded: dict[str, set[str]] = {}
    for name, expression in re.findall(r"- record: (\S+?)(?::ratio_rate\w+)?\n +expr: (.*)", RULES):
        recorded.setdefault(name, set()).update(named_in(expression))
    found: dict[str, set[str]] = {}
    for name, expression in re.findall(r"- alert: (\w+)\n +expr: (.*?)\n +(?:for|labels):", RULES, re.DOTALL):
        read = named_in(expression).union(*(recorded[each] for each in recorded if f"{each}:" in expression))
        for metric in read:
            found.setdefault(metric, set()).add(name)
    return found


def test_each_metric_names_its_alerts_and_a_runbook_entry() -> None:
    alerts, entries = alerts_by_metric(), set(re.findall(r"^### (Gregor\w+)$", RUNBOOK, re.MULTILINE))
    for name, row in ROWS.items():
        linked = re.findall(r"\[(\w+)\]\(../how-to/runbook.md#(\w+)\)", row[5])
        assert linked and all(target == entry.lower() and entry in entries for entry, target in linked), name
        named = set() if row[5].startswith("see ") else {entry for entry, _ in linked}
        assert named == alerts.get(name, set()), name
    assert {"up"} | set(ROWS) >= set(alerts)


BOARDS = sorted((ROOT / "deploy/grafana").glob("*.json"))


def queries_of(board: Path) -> list[str]:
    """Return the queries of a board."""
    return [target["expr"] for panel in json.loads(board.read_text("utf-8"))["panels"] for target in panel["targets"]]


def test_boards_show_every_metric_of_the_services() -> None:
    shown = named_in(" ".join(query for board in BOARDS for query in queries_of(board)))
    services = {name for name in exported() if name.startswith("gregor_") and not name.startswith("gregor_canary_")}

    assert shown - set(exported()) == set()
    # An upgrade watches the format by `gregor upgrade status`. Without GREGOR_TRACE_URL there are no spans to show.
    assert services - shown == {"gregor_format", "gregor_trace_spans_total"}


def test_boards_are_those_of_their_description() -> None:
    made = runpy.run_path(str(ROOT / "deploy/grafana/boards.py"))

    assert [board.stem for board in BOARDS] == sorted(made["BOARDS"])
    for board in BOARDS:
        assert board.read_text("utf-8") == made["text_of"](board.stem), "run python deploy/grafana/boards.py"
        chart = ROOT / "deploy/helm/gregor/files/dashboards" / board.name
        assert chart.read_text("utf-8") == board.read_text("utf-8")


@pytest.mark.parametrize("board", BOARDS, ids=lambda path: path.stem)
def test_panels_have_text_unit_thresholds_and_a_runbook_entry(board: Path) -> None:
    entries = {name.lower() for name in re.findall(r"^### (Gregor\w+)$", RUNBOOK, re.MULTILINE)}
    document = json.loads(board.read_text("utf-8"))

    assert [each["name"] for each in document["templating"]["list"]] == ["datasource", "docs"]
    assert len({panel["id"] for panel in document["panels"]}) == len(document["panels"])
    for panel in document["panels"]:
        assert panel["title"] and panel["description"].endswith("."), panel["title"]
        assert panel["datasource"]["uid"] == "${datasource}"
        assert panel["fieldConfig"]["defaults"]["unit"] and panel["fieldConfig"]["defaults"]["thresholds"]["steps"]
        assert panel["links"][0]["url"].rpartition("#")[2] in entries, panel["title"]
