"""deploy/helm: the chart is rendered by helm, and checked against the schemas of Kubernetes and of the operators.

No Kubernetes runs here: nothing is installed, and no webhook of an admission controller is asked.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from gregor.config.settings import VARIABLES, Settings
from gregor.core.notify.intents import CHANNELS
from tests.support.deploy_tools import DEPLOY, TOOLS, output_of, tool

CHART = DEPLOY / "helm" / "gregor"
KUBERNETES = [f"1.{minor}" for minor in range(31, 38)]
"""Releases whose schemas are in `kubernetes-validate`."""
HTTP_ROUTE = Path(__file__).with_name("httproute.json")
ROUTED = {"enabled": True, "host": "gregor.example"}
SETS: dict[str, dict[str, Any]] = {
    "defaults": {},
    "settings": {"settings": {"ORIGINS": "https://app.example", "TRUSTED_PROXIES": "10.0.0.0/8"}},
    "scaled": {
        "ingest": {"autoscaling": {"enabled": True}},
        "gateway": {"autoscaling": {"enabled": True, "connections": 8000}},
        "delivery": {"keda": {"enabled": True, "redisSecret": "redis-auth", "channels": ["apns", "email"]}},
    },
    "monitored": {
        "podMonitor": {"enabled": True, "labels": {"release": "prometheus"}},
        "prometheusRule": {"enabled": True},
        "dashboards": {"enabled": True},
    },
    "ingress": {"ingress": {**ROUTED, "className": "nginx", "tlsSecret": "tls", "annotations": {"a/b": "1"}}},
    "gateway-api": {"httpRoute": {**ROUTED, "gateway": {"name": "public", "namespace": "infra"}}},
    "secrets": {
        "secrets": {name: {"name": "s", "key": name.lower()} for name in ("queueUrl", "linkSecret", "smtpUrl")}
        | {name: {"name": "s", "key": name.lower()} for name in ("apnsKey", "fcmCredentials", "vapidKey")},
        "ingest": {"redisUrl": {"name": "redis-users", "key": "ingest"}},
    },
    "patched": {
        "gateway": {"replicas": 5, "podSpec": {"priorityClassName": "high", "nodeSelector": {"pool": "edge"}}},
        "imagePullSecrets": [{"name": "registry"}],
        "image": {"repository": "registry.internal/gregor", "tag": "1.2.3"},
    },
    "network": {
        "networkPolicy": {
            "clients": [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "ingress"}}}],
            "monitoring": [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}],
            "redisPorts": [6380, 26379],
        }
    },
    "canary": {"canary": {"enabled": True, "host": "gregor.example", "key": {"name": "canary", "key": "key"}}},
    "canary-token": {
        "canary": {
            "enabled": True,
            "host": "gregor.example:8443",
            "every": "30s",
            "key": {"name": "canary", "key": "key"},
            "token": {"name": "canary", "key": "token"},
        },
        "settings": {"HOST": "::"},
    },
    "open-network": {"networkPolicy": {"enabled": False}},
    "traced": {"settings": {"TRACE_URL": "http://otel-collector2.monitoring:4318"}},
    "private-authority": {
        "extraVolumes": [{"name": "tls", "secret": {"secretName": "tls"}}],
        "extraVolumeMounts": [{"name": "tls", "mountPath": "/etc/gregor/tls", "readOnly": True}],
        "extraEnv": [{"name": "SSL_CERT_FILE", "value": "/etc/gregor/tls/ca.pem"}],
        "canary": {"enabled": True, "host": "gregor.example", "key": {"name": "canary", "key": "key"}},
    },
}
REFUSED: dict[str, dict[str, Any]] = {
    "unknown value": {"replicas": 2},
    "unknown value of a service": {"gateway": {"replica": 2}},
    "no replica": {"ingest": {"replicas": 0}},
    "replicas as text": {"ingest": {"replicas": "2"}},
    "secret in a setting": {"settings": {"TOKEN_SECRET": "plain"}},
    "password in a setting": {"settings": {"REDIS_URL": "redis://:secret@redis"}},
    "unknown setting": {"settings": {"ORIGIN": "https://app.example"}},
    "setting with its prefix": {"settings": {"GREGOR_ORIGINS": "https://app.example"}},
    "setting that is not text": {"settings": {"MAX_LIVE": 5}},
    "port in a setting": {"settings": {"ADMIN_PORT": "9000"}},
    "secret as text": {"secrets": {"tokenSecret": "plain"}},
    "secret without a key": {"secrets": {"redisUrl": {"name": "gregor", "key": None}}},
    "name of a secret": {"secrets": {"redisUrl": {"name": "Not A Name", "key": "k"}}},
    "pull policy": {"image": {"pullPolicy": "Sometimes"}},
    "empty repository": {"image": {"repository": ""}},
    "cpu of an autoscaler": {"ingest": {"autoscaling": {"enabled": True, "cpuPercent": 150}}},
    "connections of ingest": {"ingest": {"autoscaling": {"connections": 5}}},
    "autoscaler of the scheduler": {"scheduler": {"autoscaling": {"enabled": True}}},
    "keda without its secret": {"delivery": {"keda": {"enabled": True}}},
    "unknown channel": {"delivery": {"keda": {"channels": ["sms"]}}},
    "grace below the drain": {"terminationGracePeriodSeconds": 5},
    "port out of range": {"networkPolicy": {"redisPorts": [70000]}},
    "peer with an unknown field": {"networkPolicy": {"clients": [{"cidr": "10.0.0.0/8"}]}},
    "scrape interval": {"podMonitor": {"interval": "often"}},
    "ingress without a host": {"ingress": {"enabled": True}},
    "route without a gateway": {"httpRoute": ROUTED},
    "ingress and route": {"ingress": ROUTED, "httpRoute": {**ROUTED, "gateway": {"name": "public"}}},
    "canary without a host": {"canary": {"enabled": True, "key": {"name": "canary", "key": "key"}}},
    "canary without a key": {"canary": {"enabled": True, "host": "gregor.example"}},
    "canary with a url": {"canary": {"host": "https://gregor.example"}},
    "volumes that replace those of the chart": {"gateway": {"podSpec": {"volumes": [{"name": "tls"}]}}},
    "setting as a variable": {"extraEnv": [{"name": "GREGOR_ORIGINS", "value": "https://app.example"}]},
    "url as a host": {"ingress": {"enabled": True, "host": "https://gregor.example"}},
}
SERVICES = ("ingest", "gateway", "scheduler", "delivery")
MANAGED = {"ADMIN_HOST", "ADMIN_PORT", "APNS_KEY_FILE", "FCM_CREDENTIALS_FILE", "VAPID_KEY_FILE"}
MANAGED |= {f"{name}_PORT" for name in ("INGEST", "GATEWAY", "STREAM", "SCHEDULER", "DELIVERY")}
MANAGED |= {f"{name}{suffix}" for name in ("REDIS_URL", "QUEUE_URL", "TOKEN_SECRET") for suffix in ("", "_FILE")}
MANAGED |= {f"{name}{suffix}" for name in ("LINK_SECRET", "SMTP_URL") for suffix in ("", "_FILE")}
"""Settings that the chart sets itself, or takes from a Secret."""
READ_YAML = "import json, sys, yaml; print(json.dumps([d for d in yaml.safe_load_all(open(sys.argv[1])) if d]))"


@pytest.fixture(scope="module")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("chart")
    return {name: render(folder / f"{name}.yaml", values) for name, values in SETS.items()}


def render(file: Path, values: Mapping[str, Any], status: int = 0) -> Path:
    """Render the chart with values into a file."""
    given = file.with_suffix(".json")
    given.write_text(json.dumps(values))
    said = output_of(
        [tool("helm"), "template", "gregor", str(CHART), "-f", str(given), "--kube-version", "1.31.0"], status=status
    )
    file.write_text(said)
    return file


def documents(file: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(output_of([str(TOOLS / "bin" / "python"), "-c", READ_YAML, str(file)]))
    return found


def of_kind(file: Path, kind: str) -> dict[str, dict[str, Any]]:
    return {each["metadata"]["name"]: each for each in documents(file) if each["kind"] == kind}


def pod_specs(file: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    for name, deployment in of_kind(file, "Deployment").items():
        yield name.removeprefix("gregor-"), deployment["spec"]["template"]["spec"]


def test_chart_has_no_lint(tmp_path: Path) -> None:
    output_of([tool("helm"), "lint", "--strict", str(CHART)])
    wrong = shutil.copytree(CHART, tmp_path / "gregor")
    (wrong / "templates" / "wrong.yaml").write_text("{{ .Values.missing.value }}\n")

    assert "missing" in output_of([tool("helm"), "lint", "--strict", str(wrong)], status=1)


@pytest.mark.parametrize("version", KUBERNETES)
def test_rendered_chart_follows_the_schemas(rendered: dict[str, Path], version: str) -> None:
    """All value sets, strictly. Resources of operators have no schema there; the next tests check them."""
    said = output_of([tool("kubernetes-validate"), "-k", version, "--strict", *map(str, rendered.values())])

    unknown = set(re.findall(r"Couldn't find schema for kind (\w+)", said))
    assert unknown <= {"PodMonitor", "PrometheusRule", "ScaledObject", "TriggerAuthentication", "HTTPRoute"}


@pytest.mark.parametrize(
    ("kind", "values", "module"),
    [
        ("ScaledObject", "scaled", "cloudcoil.models.keda.v1alpha1"),
        ("TriggerAuthentication", "scaled", "cloudcoil.models.keda.v1alpha1"),
        ("PodMonitor", "monitored", "cloudcoil.models.prometheus_operator.v1"),
        ("PrometheusRule", "monitored", "cloudcoil.models.prometheus_operator.v1"),
    ],
)
def test_resources_of_operators_follow_models(
    rendered: dict[str, Path], kind: str, values: str, module: str, tmp_path: Path
) -> None:
    tool("helm")
    code = f"import json, sys; from {module} import {kind}; {kind}.model_validate(json.load(open(sys.argv[1])))"
    found = of_kind(rendered[values], kind)
    assert found
    for document in found.values():
        for status, spec in ((0, document["spec"]), (1, {"podMetricsEndpoints": 5, "groups": 5, "triggers": 5})):
            file = tmp_path / f"{kind}-{status}.json"
            wrong = spec | {"secretTargetRef": 5} if status else spec
            file.write_text(json.dumps({**document, "spec": wrong}))
            output_of([str(TOOLS / "bin" / "python"), "-c", code, str(file)], status=status)


def test_http_route_has_only_valid_fields(rendered: dict[str, Path], tmp_path: Path) -> None:
    """The schema describes the fields that the chart uses: no package of schemas has those of Gateway API."""
    [route] = of_kind(rendered["gateway-api"], "HTTPRoute").values()
    spec = route["spec"]
    unknown_field = {**spec["rules"][0], "timeout": "0s"}
    wrong_duration = {**spec["rules"][0], "timeouts": {"request": "0 seconds"}}
    wrong_match = {**spec["rules"][0], "matches": [{"path": {"type": "Exactly", "value": "/v1/connect"}}]}
    wrong_port = {**spec["rules"][0], "backendRefs": [{"name": "gregor-gateway", "port": "websocket"}]}
    wrong_rules = (unknown_field, wrong_duration, wrong_match, wrong_port)

    file = tmp_path / "route.json"
    for status, each in ((0, spec), *((1, spec | {"rules": [rule]}) for rule in wrong_rules)):
        file.write_text(json.dumps({**route, "spec": each}))
        output_of([tool("check-jsonschema"), "--schemafile", str(HTTP_ROUTE), str(file)], status=status)


@pytest.mark.parametrize("reason", REFUSED)
def test_wrong_values_are_refused(reason: str, tmp_path: Path) -> None:
    said = render(tmp_path / "refused.yaml", REFUSED[reason], status=1).read_text()

    assert "don't meet the specifications of the schema" in said, said


def test_schema_allows_exactly_the_settings() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text("utf-8"))
    allowed = schema["properties"]["settings"]["propertyNames"]["enum"]

    assert allowed == sorted({name.removeprefix("GREGOR_") for name in VARIABLES} - MANAGED)


def test_pods_are_restricted(rendered: dict[str, Path]) -> None:
    """The Pod Security Standard `restricted`, and a root file system that is read-only."""
    for file in rendered.values():
        for _, spec in pod_specs(file):
            [container] = spec["containers"]
            assert spec["securityContext"]["runAsNonRoot"] is True
            assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
            assert spec["automountServiceAccountToken"] is False
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }


def test_services_add_no_environment_variables(rendered: dict[str, Path]) -> None:
    """Kubernetes would make GREGOR_INGEST_PORT from a Service `gregor-ingest`: Gregor would not start with it."""
    for file in rendered.values():
        for name, spec in pod_specs(file):
            assert spec["enableServiceLinks"] is False, name


def test_canary_uses_the_public_url(rendered: dict[str, Path]) -> None:
    [container] = dict(pod_specs(rendered["canary"]))["canary"]["containers"]
    [other] = dict(pod_specs(rendered["canary-token"]))["canary"]["containers"]

    assert container["args"][:4] == [
        "canary",
        "--url=https://gregor.example",
        "--gateway=wss://gregor.example",
        "--stream=https://gregor.example",
    ]
    assert {"name": "GREGOR_TOKEN_SECRET_FILE", "value": "/run/secrets/gregor/token-secret"} in container["env"]
    assert "--token-file=/run/secrets/gregor/token" in other["args"]
    assert [each["name"] for each in other["env"]] == ["GREGOR_KEY_FILE"]
    assert "canary" not in dict(pod_specs(rendered["defaults"]))


def test_each_service_gets_only_its_secrets(rendered: dict[str, Path]) -> None:
    mounted = {}
    for service, spec in pod_specs(rendered["secrets"]):
        sources = spec["volumes"][0]["projected"]["sources"]
        mounted[service] = {source["secret"]["items"][0]["path"] for source in sources}
        given = {each["name"]: each["value"] for each in spec["containers"][0]["env"]}
        assert given == {f"GREGOR_{name}": f"/run/secrets/gregor/{name}" for name in mounted[service]}

    urls = {"REDIS_URL_FILE", "QUEUE_URL_FILE"}
    assert mounted["scheduler"] == urls
    assert mounted["gateway"] == urls | {"TOKEN_SECRET_FILE"}
    assert mounted["ingest"] == urls | {"TOKEN_SECRET_FILE", "LINK_SECRET_FILE", "VAPID_KEY_FILE"}
    provider_files = {"APNS_KEY_FILE", "FCM_CREDENTIALS_FILE", "SMTP_URL_FILE"}
    assert mounted["delivery"] == urls | provider_files | {"LINK_SECRET_FILE", "VAPID_KEY_FILE"}


def test_chart_makes_no_secret(rendered: dict[str, Path]) -> None:
    assert not any(of_kind(file, "Secret") for file in rendered.values())


def test_probes_use_the_admin_port(rendered: dict[str, Path]) -> None:
    """Liveness must not depend on Redis, which /readyz asks."""
    for _, spec in pod_specs(rendered["defaults"]):
        [container] = spec["containers"]
        assert container["livenessProbe"]["httpGet"] == {"path": "/healthz", "port": "admin"}
        assert container["readinessProbe"]["httpGet"] == {"path": "/readyz", "port": "admin"}
        assert {"name": "admin", "containerPort": 8709} in container["ports"]


def test_grace_is_longer_than_the_drain(rendered: dict[str, Path]) -> None:
    settings = Settings()
    for _, spec in pod_specs(rendered["defaults"]):
        assert spec["terminationGracePeriodSeconds"] >= settings.pre_drain_seconds + settings.drain_seconds + 10


def test_autoscaler_owns_the_replicas(rendered: dict[str, Path]) -> None:
    """A deployment with an autoscaler has no `replicas`: an upgrade would reset them."""
    deployments = of_kind(rendered["scaled"], "Deployment")
    autoscalers = of_kind(rendered["scaled"], "HorizontalPodAutoscaler")

    assert [name for name in SERVICES if "replicas" in deployments[f"gregor-{name}"]["spec"]] == ["scheduler"]
    assert set(autoscalers) == {"gregor-ingest", "gregor-gateway"}
    down = autoscalers["gregor-gateway"]["spec"]["behavior"]["scaleDown"]
    assert down == {
        "stabilizationWindowSeconds": 300,
        "policies": [{"type": "Pods", "value": 1, "periodSeconds": 120}],
    }


def test_delivery_scales_by_the_lag_of_its_streams(rendered: dict[str, Path]) -> None:
    [scaled] = of_kind(rendered["scaled"], "ScaledObject").values()
    streams = [trigger["metadata"]["stream"] for trigger in scaled["spec"]["triggers"]]

    assert streams == ["gregor:deliveries:apns", "gregor:deliveries:email"]
    default = json.loads((CHART / "values.schema.json").read_text())["properties"]["delivery"]["properties"]["keda"]
    assert set(default["properties"]["channels"]["items"]["enum"]) == set(CHANNELS)


def test_disruption_takes_one_pod_at_a_time(rendered: dict[str, Path]) -> None:
    budgets = of_kind(rendered["defaults"], "PodDisruptionBudget")

    assert {name: budget["spec"]["maxUnavailable"] for name, budget in budgets.items()} == {
        f"gregor-{service}": 1 for service in SERVICES
    }
    for _, spec in pod_specs(rendered["defaults"]):
        keys = {each["topologyKey"] for each in spec["topologySpreadConstraints"]}
        assert keys == {"topology.kubernetes.io/zone", "kubernetes.io/hostname"}


def test_network_policy_opens_only_what_is_needed(rendered: dict[str, Path]) -> None:
    policies = of_kind(rendered["network"], "NetworkPolicy")
    open_ports = {
        name: [[port["port"] for port in rule["ports"]] for rule in policy["spec"]["ingress"]]
        for name, policy in policies.items()
    }
    reached = {
        name: [port["port"] for rule in policy["spec"]["egress"] for port in rule["ports"]]
        for name, policy in policies.items()
    }

    assert open_ports["gregor-ingest"] == [[8700], [8709]] and open_ports["gregor-gateway"] == [[8701, 8702], [8709]]
    assert open_ports["gregor-scheduler"] == open_ports["gregor-delivery"] == [[8709]]
    assert reached["gregor-scheduler"] == [53, 53, 6380, 26379]
    assert all(rule["from"] for policy in policies.values() for rule in policy["spec"]["ingress"])
    assert of_kind(rendered["open-network"], "NetworkPolicy") == {}


def test_every_service_reaches_the_collector_of_traces(rendered: dict[str, Path]) -> None:
    for policy in of_kind(rendered["traced"], "NetworkPolicy").values():
        assert [{"port": 4318}] in [rule["ports"] for rule in policy["spec"]["egress"]]


def test_files_are_added_to_every_pod(rendered: dict[str, Path]) -> None:
    """Beside the volume of the secrets: a list of `podSpec` would replace it."""
    pods = dict(pod_specs(rendered["private-authority"]))
    assert set(pods) == {*SERVICES, "canary"}
    for spec in pods.values():
        [container] = spec["containers"]
        assert [each["name"] for each in spec["volumes"]] == ["secrets", "tls"]
        assert [each["name"] for each in container["volumeMounts"]] == ["secrets", "tls"]
        assert {"name": "SSL_CERT_FILE", "value": "/etc/gregor/tls/ca.pem"} in container["env"]


@pytest.mark.parametrize(("values", "kind"), [("ingress", "Ingress"), ("gateway-api", "HTTPRoute")])
def test_routes_lead_to_the_ports(rendered: dict[str, Path], values: str, kind: str) -> None:
    [route] = of_kind(rendered[values], kind).values()
    [rule] = route["spec"]["rules"][:1]
    services = of_kind(rendered[values], "Service")

    text = json.dumps(route)
    for path in ("/v1/connect", "/v1/stream", "/v1/poll", "/v1/frames"):
        assert f'"{path}"' in text
    if kind == "Ingress":
        ports = {path["path"]: path["backend"]["service"] for path in rule["http"]["paths"]}
        assert ports["/v1/connect"] == {"name": "gregor-gateway", "port": {"name": "websocket"}}
        assert ports["/"] == {"name": "gregor-ingest", "port": {"name": "http"}}
    else:
        assert [each["backendRefs"][0]["port"] for each in route["spec"]["rules"]] == [8701, 8702, 8700]
        assert [each.get("timeouts") for each in route["spec"]["rules"]] == [{"request": "0s"}, {"request": "0s"}, None]
    [socket, _] = services["gregor-gateway"]["spec"]["ports"]
    assert socket["appProtocol"] == "kubernetes.io/ws"


def test_pod_spec_is_merged(rendered: dict[str, Path]) -> None:
    spec = dict(pod_specs(rendered["patched"]))["gateway"]

    assert spec["priorityClassName"] == "high" and spec["containers"]
    assert spec["containers"][0]["image"] == "registry.internal/gregor:1.2.3"


def test_changed_settings_replace_the_pods(rendered: dict[str, Path]) -> None:
    def hashes(name: str) -> set[str]:
        templates = [each["spec"]["template"] for each in of_kind(rendered[name], "Deployment").values()]
        return {template["metadata"]["annotations"]["gregor/settings"] for template in templates}

    assert hashes("defaults") != hashes("settings")


def test_rules_are_valid(rendered: dict[str, Path], tmp_path: Path) -> None:
    [rule] = of_kind(rendered["monitored"], "PrometheusRule").values()
    file = tmp_path / "rules.json"
    file.write_text(json.dumps({"groups": rule["spec"]["groups"]}))

    assert "SUCCESS" in output_of([tool("promtool"), "check", "rules", str(file)])


def test_dashboards_are_those_of_the_folder(rendered: dict[str, Path]) -> None:
    boards = of_kind(rendered["monitored"], "ConfigMap")["gregor-dashboards"]["data"]
    files = {f"gregor-{path.name}": json.loads(path.read_text("utf-8")) for path in (DEPLOY / "grafana").glob("*.json")}

    assert {name: json.loads(board) for name, board in boards.items()} == files
