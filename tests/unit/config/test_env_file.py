"""deploy/gregor.env: generated from the settings, and readable as a file of variables."""

from pathlib import Path

from gregor.config.env_file import example_env_file
from gregor.config.settings import VARIABLES, Settings, load_settings

FILE = Path(__file__).parents[3] / "deploy" / "gregor.env"


def variables(text: str) -> dict[str, str]:
    """Return the variables of a file in which every setting is active."""
    lines = [line.removeprefix("#") for line in text.splitlines() if line.startswith("#GREGOR_")]
    return dict(line.split("=", 1) for line in lines)


def test_env_file_is_generated() -> None:
    """To write it again: gregor config example >deploy/gregor.env"""
    assert FILE.read_text("utf-8") == example_env_file()


def test_env_file_has_every_setting_once() -> None:
    text = FILE.read_text("utf-8")

    assert list(variables(text)) == list(VARIABLES)
    assert all(line.startswith("#") or not line for line in text.splitlines())


def test_env_file_states_the_defaults() -> None:
    """With every line active, the settings are those without the file."""
    loaded = load_settings(variables(FILE.read_text("utf-8")))

    assert loaded == Settings.model_construct() or loaded.model_dump() == Settings().model_dump()
