"""The next release, as a test imagines it: a copy of this code that also has format 2. Real processes run it.

Format 2 adds a field to a stored value, a published one and a queued one:

- the head of a user counts its commits (4 bytes after the letter),
- a publication says how many commits its user has,
- a queue entry names the release that wrote it.

The copy is made by edits of the source, as a developer would make them. Each edit fails if the code has changed.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.support.cluster import ROOT, Cluster, Service

RELEASE: Final = "0.2.0"
HEAD_2, PUBLICATION_2 = b"\x82H", b"\x82C"
"""First bytes of the values of format 2."""


@dataclass(frozen=True)
class Edit:
    """Replace a regular expression in the files that match a pattern; it must be found ``count`` times in all."""

    files: str
    old: str
    new: str
    count: int = 1


# No local variable is added: a function of Lua has at most 200, and commit.lua has nearly as many.
_CODEC_END: Final = """\
-- writes: the format that this call writes; commits: the new field of a head
struct = {pack = struct.pack, unpack = struct.unpack, writes = 1, commits = 0}
function struct.is_head(raw) return sub(raw, 1, 1) == 'H' or sub(raw, 1, 2) == '\\130H' end
function struct.unpack_head(raw)
  if sub(raw, 1, 1) == 'H' then return unpack_struct(HEAD_FIELDS, raw, 2) end
  struct.writes = 2
  struct.commits = unpack_struct('>I4', raw, 3)
  return unpack_struct(HEAD_FIELDS, raw, 7)
end
function struct.pack_head(...)
  if struct.writes == 1 then return pack(HEAD_FORMAT, 'H', ...) end
  return pack('>Bc1I4', 130, 'H', struct.commits + 1) .. sub(pack(HEAD_FORMAT, 'H', ...), 2)
end
function struct.publish(key, payload)
  if struct.writes == 2 then
    payload = pack('>Bc1I4', 130, 'C', struct.commits + 1) .. sub(payload, 2)
  end
  call('SPUBLISH', key, payload)
end
"""

_READ_HEAD: Final = """\
    if raw[:2] == b"\\x82H":
        raw = b"H" + raw[6:]
    if raw[0] != _HEAD_KIND:
"""

_LUA, _STORE = "shared/gregor/store/lua/*/*.lua", "shared/gregor/store"
_RECORDS: Final = f"{_STORE}/redis/users/record_codec.py"
_INTENTS: Final = "shared/gregor/core/notify/intents.py"
EDITS: Final[Sequence[Edit]] = (
    Edit("shared/gregor/__init__.py", r'__version__ = ".*"', f'__version__ = "{RELEASE}"'),
    # The formats of the release, and the one that this process writes now.
    Edit("shared/gregor/core/formats.py", r"FORMAT: Final = 1\n", "FORMAT: Final = 2\n"),
    Edit("shared/gregor/core/formats.py", r"\nLATER: Final", "\nWRITES = [1]\n\nLATER: Final"),
    Edit(f"{_STORE}/redis/deployment.py", r"import FORMAT, READS", "import FORMAT, READS, WRITES"),
    Edit(
        f"{_STORE}/redis/deployment.py",
        r"( +)self\._written = (number|written\.number)\n",
        r"\1self._written = WRITES[0] = \2\n",
        2,
    ),
    # The head of a user. A script learns from the commit which format it writes.
    Edit(f"{_STORE}/lua/codec.lua", r"local _\n$", "local _\n" + _CODEC_END.replace("\\", r"\\")),
    Edit(_LUA, r"pack\(HEAD_FORMAT, 'H', ", "struct.pack_head(", 4),
    Edit(_LUA, r"sub\((\w+), 1, 1\) ~= 'H'", r"not struct.is_head(\1)", 6),
    Edit(_LUA, r"unpack_struct\(HEAD_FIELDS, (\w+), 2\)", r"struct.unpack_head(\1)", 6),
    Edit(f"{_STORE}/lua/commit/commit_fast.lua", r"local sender = sub\(packed_args, (\d+)\)", (
        r"local sender = sub(packed_args, \1 + 1)" "\n"
        r"struct.writes = string.byte(packed_args, \1)"
    )),
    Edit(f"{_STORE}/lua/commit/commit*.lua", r"call\('SPUBLISH', state_key, pack", "struct.publish(state_key, pack", 2),
    Edit(_RECORDS, r'_COMMIT = struct.Struct\("(.*)"\)', r'_COMMIT = struct.Struct("\1B")'),
    Edit(_RECORDS, r" commit\.spread_s,\n", " commit.spread_s,\n        WRITES[0],\n", 2),
    Edit(_RECORDS, r"import UnknownFormat", "import WRITES, UnknownFormat"),
    Edit(_RECORDS, r"    if raw\[0\] != _HEAD_KIND:\n", _READ_HEAD.replace("\\", r"\\")),
    # Publications.
    Edit(
        "services/gregor_gateway/fanout/user_channel.py",
        r"( +)creation = decode_fast\(payload\)\n",
        r'\1payload = b"C" + payload[6:] if payload[:2] == b"\\x82C" else payload' "\n\\g<0>",
    ),
    # Queue entries.
    Edit(_INTENTS, r'"format": ENTRY_FORMAT,', '"format": str(WRITES[0]), "release": __version__,'),
    Edit(_INTENTS, r"from enum import Enum\n", (
        "from enum import Enum\n\nfrom gregor import __version__\nfrom gregor.core.formats import WRITES\n"
    )),
    Edit(f"{_STORE}/redis/delivery/queue_reader.py", r"!= ENTRY_FORMAT:", '!= ENTRY_FORMAT and entry_format != "2":'),
)  # fmt: skip

# ---- the rewriting of heads


PAGE: Final = 20
"""Keys that a step of the rewrite examines."""
VISITS: Final = "test:visits"
"""A hash outside of the namespace: how often the rewrite visited each key, and rewrote it."""
_REWRITE_HEAD: Final = f"""\
local call, raw = redis.call, redis.call('HGET', KEYS[1], '.h')
call('HINCRBY', '{VISITS}', 'visited ' .. KEYS[1], 1)
if not raw or string.byte(raw) ~= 72 then return 0 end
call('HINCRBY', '{VISITS}', 'rewritten ' .. KEYS[1], 1)
call('HSET', KEYS[1], '.h', struct.pack('>Bc1I4', 130, 'H', 0) .. string.sub(raw, 2))
return 1
"""
_REWRITE_EDITS: Final[Sequence[Edit]] = (
    Edit(f"{_STORE}/redis/rewriting.py", r"(REWRITERS: .*) = \{\}\n", r'\1 = {"h": ("users/rewrite_head",)}' "\n"),
    Edit(f"{_STORE}/redis/rewriting.py", r"_PAGE: Final = 500\n", f"_PAGE: Final = {PAGE}\n"),
    # Slow enough to kill it in the middle.
    Edit("shared/gregor/jobs/rewrite.py", r"PACE_S: Final = 0\.02\n", "PACE_S: Final = 0.2\n"),
)


# ---- making it, and running it


def make_next_release(directory: Path, *, rewrites: bool = False) -> Path:
    """Copy the code into a directory and edit it. Raises ``ValueError`` if the code no longer has an edited text.

    ``rewrites``: it also has a script that rewrites the heads of format 1.
    """
    for part in ("shared", "services"):
        shutil.copytree(ROOT / part, directory / part, ignore=shutil.ignore_patterns("__pycache__"))
    if rewrites:
        (directory / _STORE / "lua/users/rewrite_head.lua").write_text(_REWRITE_HEAD, "utf-8")
    for edit in (*EDITS, *(_REWRITE_EDITS if rewrites else ())):
        found = 0
        for file in sorted(directory.glob(edit.files)):
            text, count = re.subn(edit.old, edit.new, file.read_text("utf-8"))
            file.write_text(text, "utf-8")
            found += count
        if found != edit.count:
            raise ValueError(f"{edit.files} has {found} times, not {edit.count} times: {edit.old}")
    return directory


def runs(service: Service, code: Path) -> None:
    """Let a service run another code from its next start on."""
    path = os.pathsep.join(map(str, (code / "shared", code / "services", ROOT)))
    service.environ = {**service.environ, "PYTHONPATH": path}


def add_next_release(cluster: Cluster, code: Path) -> None:
    """Start one more process of each service, which runs the next release."""
    added = [
        (cluster.ingests, cluster._ingest),
        (cluster.gateways, cluster._gateway),
        (cluster.schedulers, cluster._scheduler),
        (cluster.deliveries, cluster._delivery),
    ]
    for services, make in added:
        service = make(len(services))
        services.append(service)
        runs(service, code)
        service.start()
    for services, _ in added:
        services[-1].wait_ready()
