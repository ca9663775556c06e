"""Pages for people: index, API reference and errors. They work offline, under a strict Content-Security-Policy."""

import json
import re
from pathlib import Path

import httpx
import pytest

import gregor_ingest
from gregor.core.close_codes import CloseCode
from gregor.core.errors import ERRORS
from gregor_ingest.schemas.examples import ITEM_ID
from tests.support.api import Api, code_of

PAGES = ("/", "/docs", "/errors")
VENDORED = Path(gregor_ingest.__file__).parent / "pages" / "vendor"


def addresses(page: httpx.Response) -> list[str]:
    """Return every address that a page loads or links to."""
    return [address for address in re.findall(r'(?:src|href)="([^"]+)"', page.text) if address[0] not in "#d"]


async def test_index_links_lead_to_pages_and_documents(api: Api) -> None:
    index = await api.call("GET", "/", "")

    links = set(addresses(index))
    assert {"/docs", "/openapi.json", "/asyncapi.json", "/errors", "/healthz", "/readyz"} <= links
    for link in links:
        assert (await api.call("GET", link, "")).status_code in (200, 503), link


async def test_openapi_document_is_encoded_once(api: Api) -> None:
    document = api.app.openapi_json()

    assert api.app.openapi_json() is document
    assert (await api.call("GET", "/openapi.json", "")).content == document


@pytest.mark.parametrize("path", PAGES)
async def test_pages_load_only_hashed_assets_of_this_server(api: Api, path: str) -> None:
    page = await api.call("GET", path, "")

    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assets = [address for address in addresses(page) if address.startswith("/docs/assets/")]
    assert assets
    assert "//" not in page.text
    for address in assets:
        asset = await api.call("GET", address, "")
        assert re.search(r"\.[0-9a-f]{16}\.(css|js|svg)$", address)
        assert asset.headers["cache-control"] == "public, max-age=31536000, immutable"
        assert asset.headers["content-type"].split(";")[0] in ("text/css", "text/javascript", "image/svg+xml")


@pytest.mark.parametrize("path", PAGES)
async def test_pages_have_the_icon_that_browsers_ask_for(api: Api, path: str) -> None:
    page = await api.call("GET", path, "")
    asked = await api.call("GET", "/favicon.ico", "")

    icon = re.search(r'<link rel="icon" href="([^"]+)" type="image/svg\+xml">', page.text)
    assert icon, path
    assert asked.headers["content-type"] == "image/svg+xml"
    assert (await api.call("GET", icon[1], "")).content == asked.content


@pytest.mark.parametrize("path", PAGES)
async def test_pages_have_no_inline_script_or_style(api: Api, path: str) -> None:
    page = await api.call("GET", path, "")

    policy = page.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self'; ")
    assert "unsafe" not in policy
    assert "<style" not in page.text
    assert not re.search(r"<script(?! src=)|\son\w+=|\sstyle=", page.text)


async def test_unknown_asset_is_404(api: Api) -> None:
    for name in ("reference.js", "reference.0000000000000000.js", "..%2Fsite.css"):
        assert code_of(await api.call("GET", f"/docs/assets/{name}", "")) in ((404, "not_found"), (422, "invalid_id"))


async def test_vendored_files_have_their_licence(api: Api) -> None:
    for folder in VENDORED.iterdir():
        assert {"LICENSE", "README.md"} <= {path.name for path in folder.iterdir()}


async def test_errors_page_has_an_anchor_for_each_code(api: Api) -> None:
    page = await api.call("GET", "/errors", "")

    for code in [*ERRORS, *map(str, CloseCode)]:
        assert f'id="{code}"' in page.text


async def test_example_of_the_reference_creates_an_item(api: Api) -> None:
    """The times are relative. The page replaces the id, because an earlier request may have used it."""
    operation = (await api.call("GET", "/openapi.json", "")).json()["paths"]["/v1/users/{uid}/messages"]["post"]
    example = operation["requestBody"]["content"]["application/json"]["example"]

    receipt = (await api.call("POST", "/v1/users/alice/messages", json=example)).json()

    assert receipt["created"] == [ITEM_ID]
    assert f'"{ITEM_ID}"' in (VENDORED.parent / "reference.js").read_text()
    assert not re.search(r"1[0-9]{9}", json.dumps(example))
