"""docs/reference/errors.md lists every error code and close code as the code defines them."""

from pathlib import Path

from gregor.core.errors import ERRORS
from tests.support.close_code_table import pages_with_table, with_current_table

LINES = Path(__file__).parents[2].joinpath("docs", "reference", "errors.md").read_text("utf-8").splitlines()


def rows(heading: str) -> list[list[str]]:
    """Return the cells of the table below a heading."""
    section = LINES[LINES.index(heading) + 1 :]
    end = next((index for index, line in enumerate(section) if line.startswith("## ")), len(section))
    table = [line for line in section[:end] if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table[1:]]


def test_error_code_table_equals_the_code() -> None:
    expected = [
        [f"`{code}`", str(refusal.status), "yes" if refusal.retry else "no", refusal.meaning]
        for code, refusal in ERRORS.items()
    ]

    assert rows("## Problems") == expected


def test_close_code_table_equals_the_enum() -> None:
    pages = pages_with_table()

    assert pages, "the docs hold no block of generated close codes"
    for page in pages:
        text = page.read_text("utf-8")
        assert with_current_table(text) == text, "run: python -m tests.support.close_code_table"
