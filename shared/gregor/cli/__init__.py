"""The command `gregor`: people type it, scripts read its `--json`.

Errors are one line on stderr, with exit status 1 (2 where the command was mistyped); a mistake shows no traceback.
Commands that talk to a running Gregor find it by `--url` and `--key`, by `GREGOR_URL` and `GREGOR_KEY`, or by
what `gregor dev` left in the state directory of the user.
"""

from .app import main

__all__ = ["main"]
