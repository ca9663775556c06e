"""The JavaScript client that ingest serves to pages without npm."""

from __future__ import annotations

import base64
import hashlib
import re

import pytest

from gregor_ingest.routes.site.client_files import client_modules, hashed_modules
from tests.support.api import Api, code_of

SOURCES = {
    "inbox.js": b'import{a}from"./index.js";const b=()=>import("./sw.js");',
    "index.js": b"import \"./core.js\";\nexport * from './missing.js'",
    "core.js": b"export const a=1",
    "sw.js": b"",
}


def test_modules_import_each_other_by_hash() -> None:
    modules = hashed_modules(SOURCES)

    index, core, worker = (modules[name].file.name for name in ("index.js", "core.js", "sw.js"))
    assert modules["inbox.js"].file.content == f'import{{a}}from"./{index}";const b=()=>import("./{worker}");'.encode()
    assert modules["index.js"].file.content == f"import \"./{core}\";\nexport * from './missing.js'".encode()


def test_hash_changes_with_an_imported_module() -> None:
    changed = hashed_modules({**SOURCES, "core.js": b"export const a=2"})

    assert changed["inbox.js"].file.name != hashed_modules(SOURCES)["inbox.js"].file.name
    assert changed["sw.js"].file.name == hashed_modules(SOURCES)["sw.js"].file.name


def test_import_cycle_is_refused() -> None:
    with pytest.raises(ValueError, match="import each other"):
        hashed_modules({"a.js": b'import "./b.js"', "b.js": b'import "./a.js"'})


async def test_plain_name_is_revalidated(api: Api) -> None:
    for name, module in client_modules().items():
        first = await api.call("GET", f"/client/{name}", "", headers={"Origin": "https://any.example"})

        assert first.headers["content-type"] == "text/javascript; charset=utf-8"
        assert first.headers["cache-control"] == "no-cache"
        assert first.headers["access-control-allow-origin"] == "*"
        assert first.headers["x-content-type-options"] == "nosniff"
        assert first.content == module.file.content
        again = await api.call("GET", f"/client/{name}", "", headers={"If-None-Match": first.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")


async def test_hashed_name_is_kept_for_ever(api: Api) -> None:
    listed = (await api.call("GET", "/client/manifest.json", "")).json()

    assert listed.keys() == client_modules().keys()
    for entry in listed.values():
        assert re.fullmatch(r"/client/[\w-]+\.[0-9a-f]{16}\.js", entry["path"])
        module = await api.call("GET", entry["path"], "")
        assert module.headers["cache-control"] == "public, max-age=31536000, immutable"
        digest = base64.b64encode(hashlib.sha384(module.content).digest()).decode()
        assert entry["integrity"] == f"sha384-{digest}"


@pytest.mark.parametrize("name", ["index.0000000000000000.js", "index.d.ts", "..%2Fpackage.json", "nothing.js"])
async def test_unknown_module_is_404(api: Api, name: str) -> None:
    assert code_of(await api.call("GET", f"/client/{name}", "")) == (404, "not_found")
