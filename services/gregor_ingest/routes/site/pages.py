"""Pages for people: the index, the API reference, and the table of errors. They need no token and no other server."""

from __future__ import annotations

import hashlib
import re
from functools import cache
from html import escape
from importlib.resources import files
from typing import Final

from fastapi import APIRouter, Request, Response

from gregor import __version__
from gregor.core.close_codes import CloseCode
from gregor.core.errors import ERRORS, Problem
from gregor_ingest.guarded_route import Context, OpenRoute
from gregor_ingest.responses import json_response

from .static_files import IMMUTABLE, StaticFile

router: Final = APIRouter(route_class=OpenRoute, include_in_schema=False)
docs_router: Final = APIRouter(route_class=OpenRoute, include_in_schema=False)
"""The pages that describe the API (setting API_DOCS)."""

_ASSETS: Final = {
    "icon.svg": "icon.svg",
    "site.css": "site.css",
    "reference.css": "reference.css",
    "reference.js": "reference.js",
    "demo.css": "demo.css",
    "demo.js": "demo.js",
    "swagger-ui.css": "vendor/swagger-ui/swagger-ui.css",
    "swagger-ui-bundle.js": "vendor/swagger-ui/swagger-ui-bundle.js",
}
"""Scripts, styles and the icon by name, with their paths below ``pages``."""
_MEDIA_TYPES: Final = {"css": "text/css; charset=utf-8", "js": "text/javascript; charset=utf-8", "svg": "image/svg+xml"}
_ASSET_PATH: Final = "/docs/assets/"
_DEMO_LINK: Final = '<dt><a href="/demo">Demo</a></dt><dd>Two devices of one user, in this browser.</dd>'

# No inline scripts and styles. Swagger UI has its icons as data: images.
POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS: Final = {"Content-Security-Policy": POLICY, "Cache-Control": "no-cache"}


@docs_router.get("/", operation_id="indexPage")
async def index_page(context: Context) -> Response:
    """Return the page with links to everything that needs no token."""
    page = template("index.html").replace("<!--version-->", escape(__version__))
    return _page(page.replace("<!--demo-->", _DEMO_LINK if context.settings.demo else ""))


@docs_router.get("/docs", operation_id="docsPage")
async def docs_page() -> Response:
    """Return the API reference: Swagger UI with the OpenAPI document."""
    return _page(template("reference.html"))


@router.get("/errors", operation_id="errorsPage")
async def errors_page() -> Response:
    """Return the table of errors. Each code has an anchor, to which the ``type`` of a problem leads."""
    return _page(_errors_html())


@router.get(_ASSET_PATH + "{name}", operation_id="docsAsset")
async def docs_asset(name: str, request: Request) -> Response:
    """Return a script, a style or the icon. Its name has a hash of its content, so it may be cached for ever."""
    asset = _assets().get(name)
    if asset is None:
        raise Problem("not_found", "No file has this name. The page may belong to another version: reload it.")
    media_type = _MEDIA_TYPES[name.rpartition(".")[2]]
    headers = {**IMMUTABLE, "Content-Type": media_type}
    return await asset.response(request, headers)


@router.get("/favicon.ico", operation_id="favicon")
async def favicon() -> Response:
    """Return the icon to browsers that show JSON or a page without a link to it: they ask for this path."""
    headers = {"Cache-Control": "public, max-age=86400"}
    return Response(_read("icon.svg"), media_type=_MEDIA_TYPES["svg"], headers=headers)


@docs_router.get("/openapi.json", operation_id="openapi")
async def openapi(request: Request) -> Response:
    """Return the OpenAPI 3.1 document of the operations that this process serves."""
    return json_response(request.app.openapi_json())


@docs_router.get("/asyncapi.json", operation_id="asyncapi")
async def asyncapi() -> Response:
    """Return the AsyncAPI 3.0 document of the frames between devices and the gateway."""
    return json_response(_read("asyncapi.json"))


def _page(html: str) -> Response:
    return Response(html, media_type="text/html", headers=HEADERS)


# --- Templates and assets, read once


@cache
def _assets() -> dict[str, StaticFile]:
    """Return the assets by their hashed names."""
    assets = [StaticFile(_hashed_name(name), _read(path)) for name, path in _ASSETS.items()]
    return {asset.name: asset for asset in assets}


@cache
def _hashed_name(name: str) -> str:
    stem, _, suffix = name.rpartition(".")
    digest = hashlib.sha256(_read(_ASSETS[name])).hexdigest()
    return f"{stem}.{digest[:16]}.{suffix}"


@cache
def template(name: str) -> str:
    """Return a page, with the addresses of its assets in place of ``{{name}}``."""
    html = _read(name).decode()
    return re.sub(r"\{\{([\w.-]+)\}\}", lambda found: _ASSET_PATH + _hashed_name(found[1]), html)


@cache
def _errors_html() -> str:
    errors = "".join(
        f'<tr id="{code}"><td><a href="#{code}"><code>{code}</code></a></td><td>{definition.status}</td>'
        f"<td>{'yes' if definition.retry else 'no'}</td><td>{escape(definition.meaning)}</td></tr>\n"
        for code, definition in ERRORS.items()
    )
    closes = "".join(
        f'<tr id="{code.value}"><td><code>{code.value}</code></td><td><code>{code.reason}</code></td>'
        f"<td>{'no' if code.is_final else 'yes'}</td><td>{escape(code.meaning)}</td></tr>\n"
        for code in CloseCode
    )
    return template("errors.html").replace("<!--errors-->", errors).replace("<!--closes-->", closes)


def _read(path: str) -> bytes:
    return files("gregor_ingest").joinpath("pages", *path.split("/")).read_bytes()
