"""The fake providers of `gregor dev`: start, settings, reported arrivals, end."""

import os
import signal
from pathlib import Path

import pytest

from gregor.config.settings import load_settings
from gregor.dev import fake_providers as module
from gregor.dev.errors import DevError
from gregor.dev.fake_providers import arrival_text, fake_providers
from tests.support.wait import wait_until

PUSH = {"channel": "apns", "title": "kbob just joined", "text": None, "user": "alice", "badge": 3}


async def test_services_are_pointed_to_the_fakes(tmp_path: Path) -> None:
    lines: list[tuple[str, str]] = []
    async with fake_providers(tmp_path, lambda name, words: lines.append((name, words))) as fakes:
        environ = fakes.environ({"GREGOR_APNS_CERT_FILE": "/real.pem", "GREGOR_NAMESPACE": "mine", "PATH": "/bin"})
        settings = load_settings(environ)

        assert (settings.apns_cert_file, settings.namespace, environ["PATH"]) == (None, "mine", "/bin")
        assert settings.apns_key_file is not None and settings.apns_key_file.is_relative_to(tmp_path / "fakes")
        assert settings.fcm_url is not None and settings.vapid_key_file is not None
        assert fakes.arrivals.read_text() == ""
        assert fakes.subscription["endpoint"].startswith("https://localhost:")

    assert lines == []


async def test_end_of_the_fakes_is_reported(tmp_path: Path) -> None:
    lines: list[str] = []
    async with fake_providers(tmp_path, lambda _, words: lines.append(words)):
        children = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split()
        pid = next(int(pid) for pid in children if module.MODULE in Path(f"/proc/{pid}/cmdline").read_text())
        os.kill(pid, signal.SIGKILL)

        await wait_until(lambda: lines, "it is reported")

    assert lines == ["ended: pushes and mails do not arrive any more; restart gregor dev"]


async def test_failed_start_shows_the_last_line(tmp_path: Path) -> None:
    (tmp_path / "fakes").mkdir()
    (tmp_path / "fakes" / "apns.p8").mkdir()  # where the key would be written

    with pytest.raises(DevError, match=r"fake providers do not start: .*apns\.p8"):
        async with fake_providers(tmp_path, lambda *_: None):
            pass


@pytest.mark.parametrize(
    ("arrival", "words"),
    [
        (PUSH, 'APNs, alice: "kbob just joined"; badge 3'),
        (
            PUSH | {"channel": "fcm", "text": "You share files.", "link": "app://people/kbob", "withdraw": ["aa"]},
            'FCM, alice: "kbob just joined" (You share files.); withdraws aa; opens app://people/kbob; badge 3',
        ),
        (
            {"channel": "webpush", "title": None, "user": "alice", "withdraw": ["aa", "bb"], "badge": 0},
            "Web Push, alice: no visible text; withdraws aa, bb; badge 0",
        ),
        ({"channel": "email", "title": "Two things\n wait", "user": None}, 'mail: "Two things wait"'),
    ],
)
def test_arrival_is_one_line(arrival: dict[str, object], words: str) -> None:
    assert arrival_text(arrival) == words
