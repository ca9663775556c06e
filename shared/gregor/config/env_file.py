"""The annotated file of all settings (deploy/gregor.env), made from the settings themselves."""

from __future__ import annotations

import textwrap

from .settings import setting_rows

_HEAD = """\
# All settings of Gregor with their defaults. `gregor config example` prints this file.
#
# Remove the "#" before a setting to change it. The file can be the EnvironmentFile of a systemd unit, the env_file of
# Compose, or the file of `docker run --env-file`. docs/reference/settings.md has more about each group.
# Give secrets as files (…_FILE): a changed file is used without a restart.
"""
_WIDTH = 118


def example_env_file() -> str:
    """Return every setting as a comment: its sentence, then the variable with its default."""
    blocks = [
        "\n".join([*textwrap.wrap(sentence, _WIDTH, initial_indent="# ", subsequent_indent="# "), f"#{name}={default}"])
        for name, default, sentence in setting_rows()
    ]
    return "\n\n".join([_HEAD.rstrip("\n"), *blocks]) + "\n"
