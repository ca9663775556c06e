"""docs/reference/errors.md lists every code and every close, as the code has them."""

from pathlib import Path

from gregor.core.errors import CLOSES, ERRORS

LINES = Path(__file__).parents[2].joinpath("docs", "reference", "errors.md").read_text("utf-8").splitlines()


def rows(heading: str) -> list[list[str]]:
    """The cells of the table under a heading."""
    section = LINES[LINES.index(heading) + 1 :]
    end = next((index for index, line in enumerate(section) if line.startswith("## ")), len(section))
    table = [line for line in section[:end] if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table[1:]]


def test_every_error_code_is_documented_as_it_is() -> None:
    expected = [
        [f"`{code}`", str(refusal.status), "yes" if refusal.retry else "no", refusal.meaning]
        for code, refusal in ERRORS.items()
    ]

    assert rows("## Problems") == expected


def test_every_close_is_documented_as_it_is() -> None:
    expected = [
        [str(number), f"`{close.reason}`", "no" if close.final else "yes", close.meaning]
        for number, close in CLOSES.items()
    ]

    assert rows("## Closes of a WebSocket") == expected
