"""What `gregor watch` says of each change, and to an onlooker."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from gregor.cli import main
from gregor.cli.commands.users import time_text
from gregor.cli.watch import in_words
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
ROW = f"aa  {time_text(1457056447)}  user.joined  phone  " + '{"a": "è"}'


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (Created("aa", ITEM), f"+ {ROW}"),
        (Dismissed("aa", ITEM), "- aa"),
        (Dismissed("aa", ITEM, "expired"), "- aa  (expired)"),
        (Reminded("aa", ITEM, 1457056447), f"! {ROW}"),
        (ExternalReceived("kbfs.favorites", 3, {"x": 1}), '> kbfs.favorites  {"x": 1}'),
        (ExternalGap(), "> external messages were missed: subsystems reload"),
        (Synced("delta"), "= delta"),
        (Synced("delta", is_proven=False), "= delta, but the copies differ: fetching a new one"),
        (FlushAnnounced(30), "~ flush: a full copy comes within 30 s"),
        (MessageRefused(1, {"code": "state_full"}), "x refused: state_full"),
        (Stopped(4502, "revoked"), "x closed: 4502 revoked"),
    ],
)
def test_each_change_is_one_line(change: Change, line: str) -> None:
    assert in_words(change) == line


FRAMES = [
    {"welcome": {"ping": 25, "max_frame": 1048576, "uncounted": [], "ticket": "the-next-ticket"}},
    {"system": "gregor", "sync": "full", "seq": 1, "cursor": "k-1", "body": {"create": {"aa": ITEM}}},
    {"system": "gregor", "seq": 2, "body": {"dismiss": {"ids": ["aa"]}}},
    {"close": {"code": 4502, "reason": "revoked"}},
]


class _Place(BaseHTTPRequestHandler):
    """Ingest that gives a ticket, and a stream of `FRAMES` for it."""

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
        """Nothing: the test looks at what the command says."""


@pytest.fixture
def place() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Place) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("options", [(), ("--json",)])
def test_an_onlooker_is_told_changes_and_the_end_but_no_ticket(
    options: tuple[str, ...], place: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["watch", "alice", "--observe", "--url", place, "--key", "gk_a_b", "--stream", place, *options])

    told = capsys.readouterr()
    lines = told.out.splitlines()
    if options:
        assert [json.loads(line)["change"] for line in lines] == ["Created", "Synced", "Dismissed"]
    else:
        assert lines == [f"+ {ROW}", "= full", "- aa"]
    assert (ended.value.code, told.err) == (1, "gregor: the gateway closed: 4502 revoked\n")
