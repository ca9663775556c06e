"""Commands, endpoints and names in the operators' guides exist, in shell blocks and in the sentences."""

import inspect
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from gregor.cli.commands.canary import canary as canary_command
from gregor.config.settings import Settings
from tests.support.guide_commands import (
    check_command,
    check_endpoint,
    inline_commands,
    inline_endpoints,
    shell_commands,
)

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "docs/how-to" / f"{name}.md" for name in (
    "runbook", "upgrade", "backup", "first-day", "scale", "rotate-secrets", "troubleshoot", "canary", "traces",
    "install-on-kubernetes", "install-with-compose", "install-with-systemd", "redis-cluster", "sentinel", "tls",
    "monitor", "run-the-services", "broadcast",
)]  # fmt: skip


def commands_of(page: Path) -> Iterator[tuple[str, bool]]:
    """Yield the commands of a page, and whether they are complete."""
    text = page.read_text("utf-8")
    yield from ((command, True) for command in shell_commands(text))
    yield from ((command, False) for command in inline_commands(text))


@pytest.mark.parametrize(
    ("page", "command", "is_complete"),
    sorted({(page.stem, *found) for page in PAGES for found in commands_of(page)}),
)
def test_command_of_a_guide_exists(
    page: str, command: str, is_complete: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "categories.toml").write_text("")
    monkeypatch.chdir(tmp_path)

    check_command(command, is_complete=is_complete)


def test_ports_of_the_systemd_guide_are_distinct() -> None:
    """All processes of the guide run on one host: the four services, the canary, and a second gateway."""
    guide = (ROOT / "docs/how-to/install-with-systemd.md").read_text("utf-8")
    settings, canary = Settings(), inspect.signature(canary_command).parameters["port"].default
    [first_admin] = re.findall(r"^port=(\d+)$", guide, re.MULTILINE)
    ports = [int(first_admin) + number for number in range(4)] + [canary]
    ports += [getattr(settings, f"{name}_port") for name in ("ingest", "gateway", "stream", "scheduler", "delivery")]
    second = re.findall(r"^GREGOR_(?:GATEWAY|STREAM|ADMIN)_PORT=(\d+)$", guide, re.MULTILINE)

    assert len(second) == 3
    assert len({*ports, *map(int, second)}) == len(ports) + 3
    targets = re.findall(r':(\d+)"\], labels: ', (ROOT / "docs/how-to/monitor.md").read_text("utf-8"))
    assert list(map(int, targets)) == ports[:5]


@pytest.mark.parametrize("mode", [0o640, 0o600])
def test_rotation_of_the_token_secret_keeps_its_mode(mode: int, tmp_path: Path) -> None:
    """The services of systemd read the file by its group."""
    guide = (ROOT / "docs/how-to/rotate-secrets.md").read_text("utf-8")
    section = guide.partition("## Token secret\n")[2].partition("\n### ")[0]
    add, remove = (block.replace("/etc/gregor/secrets", str(tmp_path)) for block in re.findall(
        r"```bash\n(.*?)```", section, re.DOTALL
    ))  # fmt: skip
    token = tmp_path / "token"
    token.write_text("old\n")
    token.chmod(mode)

    subprocess.run(["bash", "-ec", add], cwd=tmp_path, check=True)
    new, old = token.read_text().splitlines()
    assert len(new) == 44 and old == "old"
    subprocess.run(["bash", "-ec", remove], cwd=tmp_path, check=True)

    assert token.read_text() == f"{new}\n"
    assert token.stat().st_mode & 0o777 == mode
    assert list(tmp_path.iterdir()) == [token]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_endpoint_of_a_guide_exists(page: Path) -> None:
    for method, path in inline_endpoints(page.read_text("utf-8")):
        check_endpoint(method, path)


def test_runbook_has_commands_of_both_kinds() -> None:
    found = list(commands_of(PAGES[0]))

    assert sum(is_complete for _, is_complete in found) >= 20
    assert sum(not is_complete for _, is_complete in found) >= 15


@pytest.mark.parametrize(
    "command",
    [
        "gregor doctr",
        "gregor upgrade complete",
        "gregor doctor --fix",
        "kubectl exec deploy/gregor-web -- gregor doctor",
        "kubectl exec deploy/gregor-gateway -- gregor doctr",
        "kubectl log deploy/gregor-gateway",
        "helm upgrade gregor deploy/chart/gregor",
        "docker compose restart redis",
        "docker compose cp valkey:/data/gregor.rdb gregor.rdb",
        "docker compose run --rm gateway doctr",
        "docker compose run --rm --no-deps web doctor",
        "journalctl -u gregor@web",
        "systemctl restart gregor-gateway",
        "make deploy",
        "curl https://gregor.example/v1/broadcasts",
        "curl -X POST https://gregor.example/v1/jobs/j1",
    ],
)
def test_wrong_command_is_found(command: str) -> None:
    with pytest.raises(AssertionError):
        check_command(command, is_complete=False)


def test_wrong_endpoint_is_found() -> None:
    check_endpoint("DELETE", "/v1/users/{uid}")
    with pytest.raises(AssertionError):
        check_endpoint("PUT", "/v1/users/{uid}")
