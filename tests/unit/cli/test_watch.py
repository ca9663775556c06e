"""`gregor watch`: the line of each change, and the output for an observer."""

import json
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from gregor.cli import main
from gregor.cli.watch import change_text, line_of
from gregor.client.changes import (
    Change,
    Created,
    Dismissed,
    ExternalGap,
    ExternalReceived,
    FlushAnnounced,
    MessageRefused,
    Reminded,
    Stopped,
    Synced,
)

ITEM = {"times": {"created": 1457056447}, "for_device": "phone", "category": "user.joined", "body": {"a": "è"}}
ROW = 'aa  user.joined  for phone  {"a": "è"}'


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (Created("aa", ITEM), f"+ {ROW}"),
        (Dismissed("aa", ITEM), "- aa  dismissed"),
        (Dismissed("aa", ITEM, "expired"), "- aa  expired"),
        (Reminded("aa", ITEM, 1457056447), f"! {ROW}"),
        (ExternalReceived("kbfs.favorites", 3, {"x": 1}), '> kbfs.favorites  {"x": 1}'),
        (ExternalGap(), "> external messages were lost: subsystems reload"),
        (Synced("delta"), "= synchronized: missed changes applied"),
        (
            Synced("delta", is_proven=False),
            "= synchronized: missed changes applied, but the digest differs: fetching a full copy",
        ),
        (FlushAnnounced(30), "~ new epoch: a full copy follows within 30 s"),
        (MessageRefused(1, {"code": "state_full"}), "x refused: state_full"),
        (Stopped(4502, "revoked"), "x closed: 4502 revoked"),
    ],
)
def test_each_change_is_one_line(change: Change, line: str) -> None:
    assert change_text(change) == line


def test_control_characters_are_escaped() -> None:
    """C0, C1, DEL and bidi marks of a body, a system or a close reason do nothing to the terminal."""
    evil = "\x1b]0;x\x07 \x9b2J \x7f \u202e \u2066 \u200f"
    body = ITEM | {"body": {"a": evil}, "category": "a\x9bb"}

    for change in (Created("aa", body), ExternalReceived("s", 3, evil), Stopped(4000, evil)):
        assert not set(line_of(change, 0, 0)) & set(evil.replace(" ", "").replace("]0;x", "").replace("2J", ""))
    assert "\\u202e" in line_of(Created("aa", body), 0, 0)


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (Synced("full"), "= synchronized: full copy; 2 items  [badge 1]"),
        (Dismissed("aa", ITEM), "- aa  dismissed  [badge 1]"),
    ],
)
def test_line_has_the_time_and_the_badge(change: Change, line: str) -> None:
    time, _, rest = line_of(change, badge=1, count=2).partition("  ")

    assert re.fullmatch(r"\d\d:\d\d:\d\d", time) and rest == line


def test_line_is_coloured_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    assert "\x1b[32m+ aa" in line_of(Created("aa", ITEM), 1, 1)

    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b" not in line_of(Created("aa", ITEM), 1, 1)


FRAMES = [
    {"welcome": {"ping": 25, "max_frame": 1048576, "uncounted": [], "ticket": "the-next-ticket"}},
    {"system": "gregor", "sync": "full", "seq": 1, "cursor": "k-1", "body": {"create": {"aa": ITEM}}},
    {"system": "gregor", "seq": 2, "body": {"dismiss": {"ids": ["aa"]}}},
    {"close": {"code": 4502, "reason": "revoked"}},
]


class _Server(BaseHTTPRequestHandler):
    """Ingest that returns a ticket, and a stream of `FRAMES` for it."""

    def do_POST(self) -> None:
        self._answer(json.dumps({"ticket": "t1"}))

    def do_GET(self) -> None:
        assert self.path == "/v1/stream?ticket=t1"
        self._answer("".join(f"data: {json.dumps(frame)}\n\n" for frame in FRAMES))

    def _answer(self, text: str) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, format: str, *args: object) -> None:
        """Log nothing: the test reads the output of the command."""


@pytest.fixture
def server_url() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Server) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("options", [(), ("--json",)])
def test_observer_sees_changes_and_the_end(
    options: tuple[str, ...], server_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["watch", "alice", "--observe", "--url", server_url, "--key", "gk_a_b", "--stream", server_url, *options])

    printed = capsys.readouterr()
    lines = printed.out.splitlines()
    if options:
        *documents, last = map(json.loads, lines)
        assert [document["change"] for document in documents] == ["Created", "Synced", "Dismissed"]
        assert last == {"problem": {"detail": "the gateway closed: 4502 revoked"}}
    else:
        assert lines[0] == f"observing alice at {server_url}; Ctrl-C ends it"
        assert [line.partition("  ")[2] for line in lines[1:]] == [
            f"+ {ROW}  [badge 1]", "= synchronized: full copy; 1 item  [badge 1]", "- aa  dismissed  [badge 0]"
        ]  # fmt: skip
    assert ended.value.code == 1
    assert printed.err == ("" if options else "gregor: the gateway closed: 4502 revoked\n")
