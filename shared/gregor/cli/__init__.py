"""The command `gregor`, for people and (with `--json`) for scripts.

An error is one line on stderr, or a JSON document on stdout with `--json`. The exit status is 1 if the command failed
and 2 if it was mistyped. Commands find a running Gregor by `--url` and `--key`, by `GREGOR_URL` and `GREGOR_KEY`, or by
the state file of `gregor dev`. Client commands work in a thin installation; the others need `gregor[server]`.
"""

from .app import main

__all__ = ["main"]
