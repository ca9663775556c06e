"""Static files: which clients get them gzipped, and which have them already."""

from __future__ import annotations

import asyncio
import gzip
import re
from typing import Any

import pytest
from fastapi import Request
from hypothesis import given
from hypothesis import strategies as st

from gregor_ingest.request import MAX_ETAGS, matches_etag
from gregor_ingest.routes.site.client_files import client_modules
from gregor_ingest.routes.site.static_files import StaticFile, accepts_gzip
from tests.support.api import Api
from tests.support.cpu_time import fastest

IDENTITY = {"Accept-Encoding": "identity"}
GZIP = {"Accept-Encoding": "gzip"}


async def paths(api: Api) -> list[str]:
    """Return one file of each kind: a module by both of its names, and a script of a page."""
    page = await api.call("GET", "/docs", "")
    script = re.search(r'src="(/docs/assets/reference\.[^"]+)"', page.text)
    assert script is not None
    return ["/client/inbox.js", f"/client/{client_modules()['inbox.js'].file.name}", script[1]]


async def raw_body(api: Api, path: str) -> tuple[str | None, bytes]:
    """Return the encoding and the bytes on the wire of a gzipped response."""
    async with api.client.stream("GET", path, headers=GZIP) as response:
        return response.headers.get("content-encoding"), b"".join([part async for part in response.aiter_raw()])


async def test_static_files_are_gzipped(api: Api) -> None:
    for path in await paths(api):
        plain = await api.call("GET", path, "", headers=IDENTITY)
        encoding, body = await raw_body(api, path)

        assert encoding == "gzip"
        assert gzip.decompress(body) == plain.content
        assert len(body) < 0.6 * len(plain.content)
        assert "content-encoding" not in plain.headers
        assert (await raw_body(api, path))[1] == body


async def test_requests_for_a_new_file_compress_it_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each compression took 0.06 s: 380 requests of one address filled the threads that render items for 11 s."""
    compressed: list[bytes] = []
    compress = gzip.compress

    def count(content: bytes, *arguments: Any, **options: Any) -> bytes:
        compressed.append(content)
        return compress(content, *arguments, **options)

    monkeypatch.setattr(gzip, "compress", count)
    file = StaticFile("a.js", b"let a;" * 100_000)
    request = Request({"type": "http", "headers": [(b"accept-encoding", b"gzip")]})
    responses = await asyncio.gather(*(file.response(request, {}) for _ in range(20)))

    assert compressed == [file.content]
    assert {gzip.decompress(bytes(each.body)) for each in responses} == {file.content}


async def test_failed_compression_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    file = StaticFile("a.js", b"let a;" * 1_000)
    request = Request({"type": "http", "headers": [(b"accept-encoding", b"gzip")]})

    def fail(*_: Any, **__: Any) -> bytes:
        raise MemoryError

    with monkeypatch.context() as patch, pytest.raises(MemoryError):
        patch.setattr(gzip, "compress", fail)
        await file.response(request, {})

    assert gzip.decompress(bytes((await file.response(request, {})).body)) == file.content


async def test_gzip_bytes_have_no_time(api: Api) -> None:
    for path in await paths(api):
        _, body = await raw_body(api, path)
        assert body[4:8] == b"\0\0\0\0"


async def test_each_encoding_has_its_etag(api: Api) -> None:
    for path in await paths(api):
        plain, gzipped = [await api.call("GET", path, "", headers=each) for each in (IDENTITY, GZIP)]

        assert plain.headers["etag"] != gzipped.headers["etag"]
        for response, encoding in ((plain, IDENTITY), (gzipped, GZIP)):
            assert "Accept-Encoding" in response.headers.get_list("vary", split_commas=True)
            etag = response.headers["etag"]
            for listed in (etag, f"W/{etag}", f'"other", W/{etag}', "*"):
                again = await api.call("GET", path, "", headers={**encoding, "If-None-Match": listed})
                assert (again.status_code, again.content) == (304, b""), listed
                assert again.headers["etag"] == etag
                assert again.headers["cache-control"] == response.headers["cache-control"]
                assert "Accept-Encoding" in again.headers.get_list("vary", split_commas=True)


async def test_etag_of_another_encoding_is_stale(api: Api) -> None:
    plain = await api.call("GET", "/client/inbox.js", "", headers=IDENTITY)
    again = await api.call("GET", "/client/inbox.js", "", headers={**GZIP, "If-None-Match": plain.headers["etag"]})

    assert (again.status_code, again.content) == (200, plain.content)


async def test_head_has_the_headers_of_get(api: Api) -> None:
    for headers in (IDENTITY, GZIP):
        head, get = [await api.call(method, "/client/inbox.js", "", headers=headers) for method in ("HEAD", "GET")]

        for name in ("content-length", "content-encoding", "etag", "vary", "cache-control", "content-type"):
            assert head.headers.get(name) == get.headers.get(name), name


async def test_responses_with_user_data_are_not_gzipped(api: Api) -> None:
    for number in range(20):
        await api.create("alice", f"item-{number}")

    for path in ("/v1/users/alice/state", "/openapi.json", "/"):
        response = await api.call("GET", path, headers=GZIP)
        assert response.status_code == 200
        assert "content-encoding" not in response.headers


@pytest.mark.parametrize(
    ("header", "is_accepted"),
    [
        ("gzip", True),
        ("gzip, deflate, br, zstd", True),
        ("GZip", True),
        ("x-gzip", True),
        ("br;q=1.0, gzip;q=0.8, *;q=0.1", True),
        ("gzip;q=0.001", True),
        ("gzip ; q=1.000", True),
        ("*", True),
        ("identity;q=0, *;q=0.5", True),
        ("", False),
        ("identity", False),
        ("br", False),
        ("gzip;q=0", False),
        ("gzip;q=0.000, *", False),
        ("*;q=0", False),
        ("identity, gzip;q=0.5", False),
        ("gzip;q=nonsense", False),
        ("gzipped", False),
    ],
)
def test_accept_encoding_decides(header: str, is_accepted: bool) -> None:
    assert accepts_gzip([header]) is is_accepted
    assert accepts_gzip(["br", header]) is is_accepted


def test_header_of_thousands_of_encodings_takes_no_long_time() -> None:
    hostile = ",".join(["a;q=1"] * 10_000)

    assert not accepts_gzip([hostile])
    assert fastest(lambda: accepts_gzip([hostile])) < 0.001
    assert not accepts_gzip([" " * 60_000 + "gzip"])


@given(st.lists(st.text(st.sampled_from(' "W/*abc,'), max_size=20), max_size=3), st.sampled_from(['"a"', 'W/"b"']))
def test_if_none_match_is_compared_weakly(values: list[str], etag: str) -> None:
    assert matches_etag([*values, f"W/{etag.removeprefix('W/')}"], etag)
    assert not matches_etag([each.replace("*", "") for each in values], '"of another state"')
    assert not matches_etag([",".join(['"x"'] * MAX_ETAGS), etag], etag)


@given(st.lists(st.text(st.sampled_from("gzipx*;q=0.1, \tidenty"), max_size=20), max_size=4))
def test_any_accept_encoding_is_read(values: list[str]) -> None:
    assert accepts_gzip(values) in (True, False)
    assert not accepts_gzip([*values, "gzip;q=0"])
