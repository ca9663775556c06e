"""`gregor dev` as a developer uses it: one command, real processes, commands that find it, and a clean end."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

import httpx
import pytest

from tests.support.ports import free_ports
from tests.support.servers import exchange
from tests.support.wait import wait_until_sync

pytestmark = pytest.mark.e2e
GREGOR = [sys.executable, "-c", "from gregor.cli import main; main()"]
SPAN = 20
"""Ports after the base that two processes of each service use."""


class Dev:
    """A running `gregor dev --json`, and commands that find it by its state file."""

    def __init__(self, folder: Path, *options: str) -> None:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("GREGOR_")}
        self.environ = {**inherited, "XDG_STATE_HOME": str(folder / "state")}
        self.log = folder / "log"
        self._log: IO[bytes] = self.log.open("ab")
        self.process = subprocess.Popen(
            [*GREGOR, "dev", "--json", *options],
            env=self.environ,
            stdout=subprocess.PIPE,
            stderr=self._log,
        )
        assert self.process.stdout is not None
        self.line = self.process.stdout.readline()
        if not self.line:
            self.end()
            raise AssertionError(self.log.read_text())
        self.places: dict[str, Any] = json.loads(self.line)
        if "problem" in self.places:
            self.end()
            raise AssertionError(self.places)

    def run(self, *arguments: str) -> str:
        return subprocess.run(
            [*GREGOR, *arguments], env=self.environ, capture_output=True, text=True, check=True
        ).stdout

    def refused(self, *arguments: str) -> str:
        """The line on stderr of a command that fails."""
        ended = subprocess.run(
            [*GREGOR, *arguments], env=self.environ, capture_output=True, text=True, check=False, timeout=60
        )
        assert ended.returncode == 1
        return ended.stderr

    def popen(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen([*GREGOR, *arguments], env=self.environ, stdout=subprocess.PIPE, text=True)

    def children(self) -> list[int]:
        place = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        return [int(pid) for pid in place.read_text().split()]

    def child(self, module: str) -> int:
        return next(pid for pid in self.children() if module in Path(f"/proc/{pid}/cmdline").read_text())

    def end(self, number: int = signal.SIGTERM) -> int:
        if self.process.poll() is None:
            self.process.send_signal(number)
        status = self.process.wait(30)
        assert self.process.stdout is not None
        self.process.stdout.close()
        self._log.close()
        return status


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Dev]]:
    with ExitStack() as stack:

        def start_one(*options: str) -> Dev:
            dev = Dev(tmp_path, "--port-base", str(free_ports(SPAN)), *options)
            stack.callback(dev.end)
            return dev

        yield start_one


@contextmanager
def ended_at_exit(dev: Dev) -> Iterator[Dev]:
    """The server, stopped at the end."""
    try:
        yield dev
    finally:
        dev.end()


def is_ready(url: str) -> bool:
    try:
        return httpx.get(url.replace("ws://", "http://") + "/readyz", timeout=2).status_code == 200
    except httpx.HTTPError:
        return False


def ready_services(dev: Dev) -> set[str]:
    lines = (line.partition("|") for line in dev.log.read_text().splitlines())
    return {name.strip() for name, _, text in lines if "Ready." in text or "service.ready" in text}


def test_all_services_are_ready_and_found_by_commands(start: Callable[..., Dev]) -> None:
    dev = start("--gateways", "2")

    assert [is_ready(url) for kind in ("ingests", "gateways", "streams") for url in dev.places[kind]] == [True] * 5
    assert dev.run("token", "mint", "--user", "alice", "--device", "phone").count(".") == 2
    dev.run("send", "alice", "--category", "user.joined", "--id", "aa", "--body", '{"keybase":"kbob"}')
    assert json.loads(dev.run("state", "alice", "--json"))["items"]["aa"]["body"] == {"keybase": "kbob"}
    assert dev.run("keys", "list").count(" all ") == 1
    assert '"fail"' not in dev.run("doctor", "--timeout", "20", "--json")
    services = {"ingest-0", "gateway-0", "gateway-1", "scheduler-0", "delivery-0"}
    wait_until_sync(lambda: ready_services(dev) == services, "each service says that it is ready")


def test_refused_token_or_key_is_reported_with_the_fix(start: Callable[..., Dev]) -> None:
    dev = start()

    stranger = dev.run("token", "mint", "--user", "alice", "--device", "phone").strip() + "x"
    watched = dev.refused("watch", "alice", "--token", stranger)
    asked = dev.refused("state", "alice", "--key", "gk_abcdefghijkl_x")

    assert "4501 unauthorised; the token is expired or signed with another secret" in watched
    assert asked.startswith("gregor: unauthorised: ") and asked.count("\n") == 1
    assert asked.endswith(" Give another key with --key or GREGOR_KEY.\n")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_end_has_status_0_and_leaves_no_process(start: Callable[..., Dev], number: int) -> None:
    dev = start()
    children = dev.children()
    services = {dev.child(f"gregor_{name}") for name in ("ingest", "gateway", "scheduler", "delivery")}
    assert services < set(children)
    assert len(children) == len(services) + 1  # and the server

    status = dev.end(number)

    assert status == 0
    assert [pid for pid in children if Path(f"/proc/{pid}").exists()] == []
    assert list(Path(dev.environ["XDG_STATE_HOME"], "gregor").glob("dev-*.json")) == []
    assert "Traceback" not in dev.log.read_text()


def test_no_child_survives_a_killed_dev(start: Callable[..., Dev]) -> None:
    dev = start()
    children = dev.children()

    dev.end(signal.SIGKILL)

    wait_until_sync(lambda: not any(Path(f"/proc/{pid}").exists() for pid in children), "all children are gone")


def test_killed_service_is_restarted(start: Callable[..., Dev]) -> None:
    dev = start()
    pid = dev.child("gregor_ingest")

    os.kill(pid, signal.SIGKILL)

    wait_until_sync(lambda: pid not in dev.children(), "it is gone")
    wait_until_sync(lambda: is_ready(dev.places["ingest"]), "ingest is ready again", timeout_s=30)
    assert re.search(r"^ingest-0 +\| ended \(signal 9\); restarts", dev.log.read_text(), re.MULTILINE)


@pytest.mark.parametrize("is_named", [False, True])
def test_restart_keeps_state_key_and_tokens(tmp_path: Path, is_named: bool) -> None:
    options = ["--port-base", str(free_ports(SPAN)), *(["--data", str(tmp_path / "data")] if is_named else [])]
    with ended_at_exit(Dev(tmp_path, *options)) as first:
        first.run("send", "alice", "--category", "user.joined", "--id", "aa")
        token = first.run("token", "mint", "--user", "alice", "--device", "phone").strip()

    with ended_at_exit(Dev(tmp_path, *options)) as second:
        assert second.places["key"] == first.places["key"]
        answer = httpx.get(
            second.places["ingest"] + "/v1/users/alice/state", headers={"Authorization": f"Bearer {token}"}, timeout=10
        )
        assert list(answer.json()["items"]) == ["aa"]

    with ended_at_exit(Dev(tmp_path, *options, "--fresh")) as third:
        assert third.places["key"] != first.places["key"]
        assert third.run("state", "alice") == "alice has no live items\n"


def test_watch_survives_a_restart_with_new_secrets(tmp_path: Path) -> None:
    options = ["--port-base", str(free_ports(SPAN))]
    with ended_at_exit(Dev(tmp_path, *options)) as first:
        watching = first.popen("watch", "alice", "--json")
        assert watching.stdout is not None
        assert json.loads(watching.stdout.readline())["change"] == "Synced"

    with watching, ended_at_exit(Dev(tmp_path, *options, "--fresh")) as second:
        second.run("send", "alice", "--category", "user.joined", "--id", "aa")
        changes = []
        while "Created" not in changes:
            line = watching.stdout.readline()
            assert line, "watch ended"
            changes.append(json.loads(line)["change"])
        watching.terminate()


def test_two_devs_are_found_by_their_urls(start: Callable[..., Dev]) -> None:
    first, second = start(), start()
    second.run("send", "alice", "--category", "mail", "--id", "second")

    assert "second" in first.run("state", "alice")  # the one that was started last
    assert first.run("state", "alice", "--url", first.places["ingest"]) == "alice has no live items\n"
    second.end()
    assert first.run("state", "alice") == "alice has no live items\n"


def test_embedded_redis_needs_the_password(start: Callable[..., Dev]) -> None:
    """The URL with the password is in the output and the state file (0600), and in no argument of a process."""
    dev = start()
    place = urlsplit(dev.places["redis"])

    assert exchange(place.port or 0, "PING").startswith("-NOAUTH")
    assert place.password
    (state,) = (Path(dev.environ["XDG_STATE_HOME"]) / "gregor").glob("dev-*.json")
    assert json.loads(state.read_text())["redis"] == dev.places["redis"]
    assert state.stat().st_mode & 0o777 == 0o600
    for pid in dev.children():
        assert place.password.encode() not in Path(f"/proc/{pid}/cmdline").read_bytes()


def test_key_in_an_external_redis_is_deleted_at_the_end(start: Callable[..., Dev], redis_server: str) -> None:
    dev = start("--redis", redis_server)
    assert dev.places["redis"] == redis_server

    dev.end()

    environ = {**dev.environ, "GREGOR_REDIS_URL": redis_server}
    listed = subprocess.run([*GREGOR, "keys", "list"], env=environ, capture_output=True, text=True, check=True).stdout
    assert listed == "there are no keys\n"


def test_two_watching_devices_show_one_state(start: Callable[..., Dev]) -> None:
    dev = start()
    with dev.popen("watch", "alice", "--device", "phone") as phone, dev.popen("watch", "alice") as other:
        try:
            assert phone.stdout is not None
            assert other.stdout is not None
            for watching, name in ((phone.stdout, "phone"), (other.stdout, "terminal")):
                assert watching.readline().startswith(f"connected to {dev.places['gateway']} as alice/{name}; ")
                assert watching.readline().endswith("  = synchronized: full copy; 0 items  [badge 0]\n")

            dev.run("send", "alice", "--category", "user.joined", "--id", "aa", "--body", '{"keybase":"kbob"}')
            dev.run("send", "alice", "--dismiss", "aa")

            for watching in (phone.stdout, other.stdout):
                assert watching.readline().endswith('  + aa  user.joined  {"keybase": "kbob"}  [badge 1]\n')
                assert watching.readline().endswith("  - aa  dismissed  [badge 0]\n")
        finally:
            for process in (phone, other):
                process.terminate()


def test_pushes_arrive_at_fake_providers(start: Callable[..., Dev]) -> None:
    dev = start("--fake-providers")
    fakes = dev.places["fakes"]
    arrivals = Path(fakes["arrivals"])
    category = {"title": "{{ body.keybase }} just joined", "push": {"after": "0s"}}
    devices = {
        "phone": {"platform": "ios", "push": {"provider": "apns", "token": "a11ce0"}},
        "laptop": {"platform": "web", "push": {"provider": "webpush", "token": fakes["subscription"]}},
    }
    with httpx.Client(
        base_url=dev.places["ingest"], headers={"Authorization": f"Bearer {dev.places['key']}"}, timeout=10
    ) as api:
        api.put("/v1/categories/user.joined", json=category).raise_for_status()
        for name, document in devices.items():
            api.put(f"/v1/users/alice/devices/{name}", json=document).raise_for_status()
    dev.run("send", "alice", "--category", "user.joined", "--id", "aa", "--body", '{"keybase":"kbob"}')

    wait_until_sync(lambda: len(arrivals.read_text().splitlines()) == 2, "both arrive", timeout_s=30)

    lines = [json.loads(line) for line in arrivals.read_text().splitlines()]
    assert {line["channel"] for line in lines} == {"apns", "webpush"}
    assert {(line["user"], line["id"], line["title"], line["badge"]) for line in lines} == {
        ("alice", "aa", "kbob just joined", 1)
    }
    assert 'APNs, alice: "kbob just joined"; badge 1' in dev.log.read_text()
    found = {
        finding["check"]: finding["found"] for finding in json.loads(dev.run("doctor", "--timeout", "20", "--json"))
    }
    assert {name: found[name] for name in ("apns", "fcm", "webpush")} == dict.fromkeys(
        ("apns", "fcm", "webpush"), "good"
    )
    children = dev.children()
    assert dev.end() == 0
    assert [pid for pid in children if Path(f"/proc/{pid}").exists()] == []
    assert not arrivals.exists()


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (["--redis", "redis://127.0.0.1:1/0"], "Redis cannot be used at redis://127.0.0.1:1/0"),
        (["--redis", "redis://127.0.0.1:1/0"], "with GREGOR_REDIS_URL, or with --redis of dev and doctor"),
        (["--redis", "redis+cluster://127.0.0.1:1"], "GREGOR_QUEUE_URL is required"),
        (["--data", "/proc/nowhere"], "the data directory /proc/nowhere cannot be used"),
    ],
)
def test_failed_start_is_one_line(tmp_path: Path, options: list[str], text: str) -> None:
    ended = subprocess.run(
        [*GREGOR, "dev", "--port-base", str(free_ports(SPAN)), *options],
        env={**os.environ, "XDG_STATE_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )

    assert (ended.returncode, ended.stdout, ended.stderr.count("\n")) == (1, "", 1)
    assert text in ended.stderr


def test_second_dev_on_the_same_ports_is_refused(start: Callable[..., Dev]) -> None:
    dev = start()
    base = dev.places["ingest"].rpartition(":")[2]

    ended = subprocess.run(
        [*GREGOR, "dev", "--port-base", base], env=dev.environ, capture_output=True, text=True, check=False
    )

    assert ended.returncode == 1
    assert ended.stderr == (
        f"gregor: port {base} is in use (another gregor dev?): stop it, or choose other ports with --port-base N\n"
    )
