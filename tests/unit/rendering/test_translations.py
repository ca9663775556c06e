"""The language of Gregor's own pages and mails."""

import pytest

from gregor.rendering.translations import accepted_translation
from tests.support.cpu_time import fastest


@pytest.mark.parametrize(
    ("header", "language"),
    [
        ("", "en"),
        ("de", "de"),
        ("de-AT, en;q=0.5", "de"),
        (" fr ; q=0.2 , es ;q=0.9", "es"),
        ("xx, de;q=nonsense", "en"),
        ("de" + " " * 70, "en"),
    ],
)
def test_accepted_language_with_the_greatest_weight_is_chosen(header: str, language: str) -> None:
    assert accepted_translation(header).tag == language


@pytest.mark.parametrize("header", ["a" + " " * 60_000 + "x", "a," * 30_000, "a;q=1" + " " * 60_000 + ","])
def test_accept_language_of_a_stranger_takes_no_long_time(header: str) -> None:
    """60,000 spaces took 16 seconds, before any token is known."""
    assert fastest(lambda: accepted_translation(header)) < 0.005
