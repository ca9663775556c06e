"""The Lua scripts, read once from package data. One file is one step; a script is the parts it names, joined.

``COMMIT`` is loaded a second time under ``#!lua flags=allow-oom`` for messages without creations: under ``maxmemory`` a
script that may grow is refused whole, and dismissals, which shrink, must not be.
"""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import Final

from gregor.redis.client import Script

COMMIT: Final = ("codec", "commit_fast", "commit_general", "commit_write")
SYNC: Final = ("codec", "sync")
DUE: Final = ("codec", "due")
COLLECT: Final = ("codec", "collect")
HISTORY: Final = ("codec", "history")
SCENE: Final = ("codec", "scene")


@cache
def load(*parts: str, flags: str = "") -> Script:
    """The script of these parts (file names without ``.lua``). ``flags``: as in the first line ``#!lua flags=…``."""
    folder = files("gregor.store").joinpath("lua")
    source = "".join(folder.joinpath(f"{part}.lua").read_text() for part in parts)
    return Script(f"#!lua flags={flags}\n{source}" if flags else source)
