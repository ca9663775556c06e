"""The modules of the JavaScript client, for pages without npm: ``<script type="module" src="/client/inbox.js">``.

Each module has two names: ``inbox.js``, which a browser revalidates, and one with a hash of the content, which it may
cache for ever. Both have the same content, which imports the other modules by their hashed names.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Final, NamedTuple

from fastapi import APIRouter, Request, Response

from gregor.core.errors import Problem
from gregor_ingest.guarded_route import OpenRoute
from gregor_ingest.responses import json_response

from .static_files import IMMUTABLE, StaticFile

router: Final = APIRouter(route_class=OpenRoute, include_in_schema=False)
PATH: Final = "/client/"

_IMPORT: Final = re.compile(rb"""((?:from|import)\s*\(?\s*["'])\./([\w.-]+\.js)(["'])""")
_HEADERS: Final = {
    # A page of any origin may load the modules: they are public, and a cross-origin module script needs CORS.
    "Access-Control-Allow-Origin": "*",
    "Cross-Origin-Resource-Policy": "cross-origin",
    "Content-Type": "text/javascript; charset=utf-8",
}


class ClientModule(NamedTuple):
    """A module with its imports rewritten. ``integrity``: the value of that attribute of a ``<script>`` (SHA-384)."""

    file: StaticFile
    integrity: str


@router.get(PATH + "manifest.json", operation_id="clientManifest")
async def manifest() -> Response:
    """Return path and integrity of each module by its name."""
    document = {
        name: {"path": PATH + module.file.name, "integrity": module.integrity}
        for name, module in client_modules().items()
    }
    headers = {name: value for name, value in _HEADERS.items() if name != "Content-Type"}
    return json_response(document, headers={**headers, "Cache-Control": "no-cache"})


@router.get(PATH + "{name}", operation_id="clientFile")
async def client_file(name: str, request: Request) -> Response:
    """Return a module by its plain or hashed name."""
    modules = client_modules()
    if (module := modules.get(name)) is not None:
        return await module.file.response(request, {**_HEADERS, "Cache-Control": "no-cache"})
    for module in modules.values():
        if module.file.name == name:
            return await module.file.response(request, {**_HEADERS, **IMMUTABLE})
    raise Problem("not_found", f"No module has this name. {PATH}manifest.json lists all modules.")


@cache
def client_modules() -> dict[str, ClientModule]:
    """Return the modules of the client by their plain names; read once."""
    return hashed_modules(
        {path.name: path.read_bytes() for path in _directory().iterdir() if path.name.endswith(".js")}
    )


def hashed_modules(sources: Mapping[str, bytes]) -> dict[str, ClientModule]:
    """Return the modules with hashed names, also in their imports. Raises ``ValueError`` for an import cycle.

    The hash of a module depends on its imports, so these are hashed first: a cycle has no order.
    """
    done: dict[str, ClientModule] = {}

    def hashed(name: str, importers: tuple[str, ...]) -> ClientModule:
        if name in importers:
            raise ValueError(f"the modules {' and '.join(importers)} import each other")
        if name not in done:
            content = _IMPORT.sub(lambda found: _import_of(found, (*importers, name)), sources[name])
            digest = hashlib.sha256(content).hexdigest()[:16]
            integrity = "sha384-" + base64.b64encode(hashlib.sha384(content).digest()).decode()
            file = StaticFile(f"{name.removesuffix('.js')}.{digest}.js", content)
            done[name] = ClientModule(file, integrity)
        return done[name]

    def _import_of(found: re.Match[bytes], importers: tuple[str, ...]) -> bytes:
        target = found[2].decode()
        if target not in sources:
            return found[0]
        return found[1] + b"./" + hashed(target, importers).file.name.encode() + found[3]

    for name in sorted(sources):
        hashed(name, ())
    return done


def _directory() -> Traversable:
    """Return the directory of the modules: in the package of a wheel, or in the checkout."""
    packaged = files("gregor_ingest").joinpath("client")
    if packaged.is_dir():
        return packaged
    return Path(__file__).parents[4] / "clients" / "js" / "dist"
