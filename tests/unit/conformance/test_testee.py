"""The process under test: a command that ends, is silent or does not read is an error, and never blocks the kit."""

import sys

import pytest

from gregor.conformance.testee import Testee, TesteeError

READS_NOTHING = "import time; time.sleep(1)"
ENDS = "pass"
IS_SILENT = "import sys; sys.stdin.read()"
ANSWERS = "import sys\nfor line in sys.stdin: print('{\"length\":%d}' % len(line), flush=True)"


def test_answer_of_a_command_is_returned() -> None:
    with Testee([sys.executable, "-c", ANSWERS]) as testee:
        assert testee.ask("start") == {"length": 15}
        assert testee.ask("receive", frames=["x" * 1_000_000])["length"] > 1_000_000


@pytest.mark.parametrize(
    ("program", "error"),
    [
        (READS_NOTHING, "did not read 'receive' within 0.2 s"),
        (IS_SILENT, "no response to 'receive' within 0.2 s"),
    ],
)
def test_slow_command_is_an_error(program: str, error: str) -> None:
    frames = ["x" * 1_000_000] if program == READS_NOTHING else []
    with Testee([sys.executable, "-c", program], timeout_s=0.2) as testee, pytest.raises(TesteeError, match=error):
        testee.ask("receive", frames=frames)


def test_command_that_ends_is_an_error() -> None:
    with Testee([sys.executable, "-c", ENDS]) as testee, pytest.raises(TesteeError, match="the command ended"):
        testee.ask("start", frames=["x" * 1_000_000])


def test_responses_are_read_in_the_order_of_requests() -> None:
    with Testee([sys.executable, "-c", ANSWERS]) as testee:
        testee.send("a")
        testee.send("abc")

        assert [testee.response(), testee.response()] == [{"length": 11}, {"length": 13}]


def test_ask_discards_responses_that_were_not_read() -> None:
    with Testee([sys.executable, "-c", ANSWERS]) as testee:
        testee.send("a")

        assert testee.ask("abc") == {"length": 13}


def test_full_pipes_in_both_directions_do_not_block() -> None:
    repeats = "import sys\nfor line in sys.stdin: print(line, flush=True, end='')"
    with Testee([sys.executable, "-c", repeats], timeout_s=10) as testee:
        for _ in range(20):
            testee.send("receive", frames=["x" * 100_000])

        assert {testee.response()["do"] for _ in range(20)} == {"receive"}
