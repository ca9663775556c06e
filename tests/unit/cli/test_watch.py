"""`gregor watch`: the line of each change, and the output for an observer."""

import asyncio
import json
import re
import threading
from collections.abc import Awaitable, Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from gregor.cli import main
from gregor.cli import watch as watch_module
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
from gregor.client.mirror import digest_of
from gregor.client.tokens import mint_device_token
from tests.support.wait import wait_until
from tests.unit.cli.running import run
from tests.unit.client.scripted_gateway import ScriptedConnection, ScriptedGateway, scripted_gateway

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
            "= synchronized: missed changes applied, but the digest differed: replaced by a full copy",
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


# As a device.

TOKEN = mint_device_token("a secret of the tests, long enough", "bob", "tablet")
Script = Callable[[ScriptedConnection, ScriptedGateway], Awaitable[ScriptedConnection | None]]
OTHER = ITEM | {"category": "mail", "for_device": None}


def _sync(number: int, **items: object) -> dict[str, object]:
    digest = digest_of(items)  # type: ignore[arg-type]
    body = {"create": items}
    return {"system": "gregor", "sync": "full", "cursor": f"abcdef-{number}", "digest": digest, "body": body}


async def _watched(script: Script, *options: str) -> None:
    """Run `gregor watch` against a gateway that plays a script, and end it by a close."""
    async with scripted_gateway() as gateway:
        command = ("watch", "alice", "--token", TOKEN, "--gateway", gateway.url, *options)
        running = asyncio.create_task(asyncio.to_thread(run, *command))
        last = await gateway.next_connection()
        try:
            await last.receive("hello")
            await last.send({"welcome": {"uncounted": []}})
            last = await script(last, gateway) or last
        finally:  # also if the script fails: the command would connect again and never end
            await last.close(4502, "revoked")
        assert await running == 1


def _lines(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return [re.sub(r"^\d\d:\d\d:\d\d  |  \[badge \d+\]$", "", line) for line in capsys.readouterr().out.splitlines()]


async def test_connection_is_printed_once_with_device_of_token(capsys: pytest.CaptureFixture[str]) -> None:
    async def script(first: ScriptedConnection, gateway: ScriptedGateway) -> None:
        await first.send(_sync(2, aa=ITEM, bb=OTHER))

    await _watched(script)

    connected, *changes = _lines(capsys)
    assert re.fullmatch(r"connected to ws://\S+ as bob/tablet; Ctrl-C ends it", connected)
    assert changes == [f"+ {ROW}", '+ bb  mail  {"a": "è"}', "= synchronized: full copy; 2 items"]


async def test_full_copy_after_reset_is_no_dismissal(capsys: pytest.CaptureFixture[str]) -> None:
    async def script(first: ScriptedConnection, gateway: ScriptedGateway) -> None:
        await first.send(_sync(2, aa=ITEM))
        await first.receive("ack")
        await first.send(_sync(1, bb=OTHER) | {"external_gap": True})

    await _watched(script)

    assert _lines(capsys)[3:] == ["= synchronized: full copy; 1 item", '+ bb  mail  {"a": "è"}']


async def test_json_has_every_change_of_a_full_copy(capsys: pytest.CaptureFixture[str]) -> None:
    async def script(first: ScriptedConnection, gateway: ScriptedGateway) -> None:
        await first.send(_sync(2, aa=ITEM))
        await first.receive("ack")
        await first.send(_sync(1) | {"external_gap": True})

    await _watched(script, "--json")

    documents = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [document.get("change") for document in documents][2:] == [
        "Dismissed",
        "ExternalGap",
        "Synced",
        "Stopped",
        None,
    ]


async def test_return_of_connection_precedes_its_lines(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch_module, "CHECK_S", 0.01)
    printed = {"err": ""}

    def has_loss() -> bool:
        printed["err"] += capsys.readouterr().err
        return "trying again" in printed["err"]

    async def script(first: ScriptedConnection, gateway: ScriptedGateway) -> ScriptedConnection:
        await first.send(_sync(2, aa=ITEM))
        await first.receive("ack")
        await first.close(1012, "retry_after_ms=1")
        second = await gateway.next_connection()
        await wait_until(has_loss, "the loss is reported")
        await second.accept_hello()
        await second.receive("ack")
        return second

    await _watched(script)

    assert "gregor: connected again" in capsys.readouterr().err.splitlines()
