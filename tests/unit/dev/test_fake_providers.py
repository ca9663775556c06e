"""The fakes of `gregor dev --fake-providers`: started, led to, told of in plain words, ended."""

import os
import signal
from pathlib import Path

import pytest

from gregor.cli.errors import Failure
from gregor.config.settings import load_settings
from gregor.dev import fake_providers as module
from gregor.dev.fake_providers import fake_providers, words_of
from tests.support.wait import wait_until

PUSH = {"channel": "apns", "title": "kbob just joined", "text": None, "user": "alice", "badge": 3}


async def test_they_listen_and_all_that_is_told_to_the_services_is_a_setting(tmp_path: Path) -> None:
    told: list[tuple[str, str]] = []
    async with fake_providers(tmp_path, lambda name, words: told.append((name, words))) as fakes:
        environ = fakes.environ({"GREGOR_APNS_CERT_FILE": "/real.pem", "GREGOR_NAMESPACE": "mine", "PATH": "/bin"})
        settings = load_settings(environ)

        assert (settings.apns_cert_file, settings.namespace, environ["PATH"]) == (None, "mine", "/bin")
        assert settings.apns_key_file is not None and settings.apns_key_file.is_relative_to(tmp_path / "fakes")
        assert settings.fcm_url is not None and settings.vapid_key_file is not None
        assert fakes.arrivals.read_text() == ""
        assert fakes.subscription["endpoint"].startswith("https://localhost:")

    assert told == []


async def test_where_they_die_it_is_said(tmp_path: Path) -> None:
    told: list[str] = []
    async with fake_providers(tmp_path, lambda _, words: told.append(words)):
        children = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split()
        pid = next(int(pid) for pid in children if module.MODULE in Path(f"/proc/{pid}/cmdline").read_text())
        os.kill(pid, signal.SIGKILL)

        await wait_until(lambda: told, "it is told")

    assert told == ["ended: nothing that is sent arrives; end gregor dev and start it again"]


async def test_where_they_do_not_start_their_last_words_are_the_failure(tmp_path: Path) -> None:
    (tmp_path / "fakes").mkdir()
    (tmp_path / "fakes" / "apns.p8").mkdir()  # where the key would be written

    with pytest.raises(Failure, match=r"fake providers do not start: .*apns\.p8"):
        async with fake_providers(tmp_path, lambda *_: None):
            pass


@pytest.mark.parametrize(
    ("arrival", "words"),
    [
        (PUSH, 'APNs, alice: "kbob just joined"; badge 3'),
        (
            PUSH | {"channel": "fcm", "text": "You share files.", "link": "app://people/kbob", "withdraw": ["aa"]},
            'FCM, alice: "kbob just joined" (You share files.); takes away aa; opens app://people/kbob; badge 3',
        ),
        (
            {"channel": "webpush", "title": None, "user": "alice", "withdraw": ["aa", "bb"], "badge": 0},
            "Web Push, alice: nothing to show; takes away aa, bb; badge 0",
        ),
        ({"channel": "email", "title": "Two things\n wait", "user": None}, 'mail: "Two things wait"'),
    ],
)
def test_an_arrival_is_told_in_plain_words(arrival: dict[str, object], words: str) -> None:
    assert words_of(arrival) == words
