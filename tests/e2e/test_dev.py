"""`gregor dev` as a developer has it: one command, real processes, the other commands find it, it ends cleanly."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any

import httpx
import pytest

from tests.support.ports import free_ports
from tests.support.wait import wait_until_sync

pytestmark = pytest.mark.e2e
GREGOR = [sys.executable, "-c", "from gregor.cli import main; main()"]
SPAN = 20
"""Ports after the base that two of each service take."""


class Dev:
    """A running `gregor dev --json`, and commands that find it by what it left."""

    def __init__(self, folder: Path, *options: str) -> None:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("GREGOR_")}
        self.environ = {**kept, "XDG_STATE_HOME": str(folder / "state")}
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


def is_ready(url: str) -> bool:
    try:
        return httpx.get(url.replace("ws://", "http://") + "/readyz", timeout=2).status_code == 200
    except httpx.HTTPError:
        return False


def ready_ones(dev: Dev) -> set[str]:
    lines = (line.partition("|") for line in dev.log.read_text().splitlines())
    return {name.strip() for name, _, said in lines if "Ready." in said or "service.ready" in said}


def test_once_the_line_is_printed_every_service_is_ready_and_the_commands_find_it(start: Callable[..., Dev]) -> None:
    dev = start("--gateways", "2")

    assert [is_ready(url) for kind in ("ingests", "gateways", "streams") for url in dev.places[kind]] == [True] * 5
    assert dev.run("token", "mint", "--user", "alice", "--device", "phone").count(".") == 2
    dev.run("send", "alice", "--category", "user.joined", "--id", "aa", "--body", '{"keybase":"kbob"}')
    assert json.loads(dev.run("state", "alice", "--json"))["items"]["aa"]["body"] == {"keybase": "kbob"}
    assert dev.run("keys", "list").count("ingest") == 1
    assert '"fail"' not in dev.run("doctor", "--json")
    services = {"ingest-0", "gateway-0", "gateway-1", "scheduler-0", "delivery-0"}
    wait_until_sync(lambda: ready_ones(dev) == services, "each service says that it is ready")


def test_a_token_or_key_that_is_not_taken_is_told_with_its_mend(start: Callable[..., Dev]) -> None:
    dev = start()

    stranger = dev.run("token", "mint", "--user", "alice", "--device", "phone").strip() + "x"
    watched = dev.refused("watch", "alice", "--token", stranger)
    asked = dev.refused("state", "alice", "--key", "gk_abcdefghijkl_x")

    assert "4501 unauthorised; " in watched and watched.endswith("watch anew\n")
    assert asked == "gregor: unauthorised: The service key is not known. Give another with --key or GREGOR_KEY.\n"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_ends_with_status_0_and_leaves_no_process_and_no_file(start: Callable[..., Dev], number: int) -> None:
    dev = start()
    children = dev.children()
    services = {dev.child(f"gregor_{name}") for name in ("ingest", "gateway", "scheduler", "delivery")}
    assert services < set(children)
    assert len(children) == len(services) + 1  # and the server

    status = dev.end(number)

    assert status == 0
    assert [pid for pid in children if Path(f"/proc/{pid}").exists()] == []
    assert list(Path(dev.environ["XDG_STATE_HOME"]).rglob("*.json")) == []
    assert "Traceback" not in dev.log.read_text()


def test_no_child_outlives_it_even_where_it_is_killed(start: Callable[..., Dev]) -> None:
    dev = start()
    children = dev.children()

    dev.end(signal.SIGKILL)

    wait_until_sync(lambda: not any(Path(f"/proc/{pid}").exists() for pid in children), "all children are gone")


def test_a_service_that_is_killed_comes_back(start: Callable[..., Dev]) -> None:
    dev = start()
    pid = dev.child("gregor_ingest")

    os.kill(pid, signal.SIGKILL)

    wait_until_sync(lambda: pid not in dev.children(), "it is gone")
    wait_until_sync(lambda: is_ready(dev.places["ingest"]), "ingest is ready again", timeout_s=30)
    assert re.search(r"^ingest-0 +\| ended \(signal 9\)", dev.log.read_text(), re.MULTILINE)


def test_with_data_the_state_and_the_key_are_there_again(start: Callable[..., Dev], tmp_path: Path) -> None:
    first = start("--data", str(tmp_path / "data"))
    first.run("send", "alice", "--category", "user.joined", "--id", "aa")
    token = first.run("token", "mint", "--user", "alice", "--device", "phone").strip()
    first.end()

    second = start("--data", str(tmp_path / "data"))

    assert second.places["key"] == first.places["key"]
    answer = httpx.get(
        second.places["ingest"] + "/v1/users/alice/state", headers={"Authorization": f"Bearer {token}"}, timeout=10
    )
    assert list(answer.json()["items"]) == ["aa"]


def test_with_a_redis_of_ones_own_the_key_goes_when_it_ends(start: Callable[..., Dev], redis_server: str) -> None:
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
            assert phone.stdout.readline().startswith("= ")
            assert other.stdout.readline().startswith("= ")

            dev.run("send", "alice", "--category", "user.joined", "--id", "aa", "--body", '{"keybase":"kbob"}')
            dev.run("send", "alice", "--dismiss", "aa")

            for watching in (phone.stdout, other.stdout):
                assert watching.readline().startswith("+ aa ")
                assert watching.readline() == "- aa\n"
        finally:
            for process in (phone, other):
                process.terminate()


def test_with_fake_providers_a_push_and_a_browsers_push_arrive_and_are_told(start: Callable[..., Dev]) -> None:
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
    said = {finding["check"]: finding["found"] for finding in json.loads(dev.run("doctor", "--json"))}
    assert {name: said[name] for name in ("apns", "fcm", "webpush")} == dict.fromkeys(
        ("apns", "fcm", "webpush"), "good"
    )
    children = dev.children()
    assert dev.end() == 0
    assert [pid for pid in children if Path(f"/proc/{pid}").exists()] == []
    assert not arrivals.exists()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--redis", "redis://127.0.0.1:1/0"], "Redis cannot be used at redis://127.0.0.1:1/0"),
        (["--redis", "redis://127.0.0.1:1/0"], "--redis of dev and doctor, says where it is"),
        (["--redis", "redis+cluster://127.0.0.1:1"], "is not supported yet"),
        (["--data", "/proc/nowhere"], "--data /proc/nowhere cannot be used"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(tmp_path: Path, options: list[str], said: str) -> None:
    ended = subprocess.run(
        [*GREGOR, "dev", "--port-base", str(free_ports(SPAN)), *options],
        env={**os.environ, "XDG_STATE_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )

    assert (ended.returncode, ended.stdout, ended.stderr.count("\n")) == (1, "", 1)
    assert said in ended.stderr


def test_a_second_one_on_the_same_ports_says_so(start: Callable[..., Dev]) -> None:
    dev = start()
    base = dev.places["ingest"].rpartition(":")[2]

    ended = subprocess.run(
        [*GREGOR, "dev", "--port-base", base], env=dev.environ, capture_output=True, text=True, check=False
    )

    assert ended.returncode == 1
    assert ended.stderr == (
        f"gregor: port {base} is taken (another gregor dev?): end what holds it, or choose others with --port-base N\n"
    )
