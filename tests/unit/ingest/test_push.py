"""The public key of Web Push: told to everybody, to be subscribed with."""

from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from gregor.auth.vapid import VapidKey
from gregor.dev.fakes.keys import write_key
from tests.support.api import Api, code_of

PATH = "/v1/push/webpush"


async def test_anybody_gets_the_key_that_pushes_are_signed_with(tmp_path: Path) -> None:
    write_key(tmp_path / "vapid.pem")
    signing = VapidKey.read(tmp_path / "vapid.pem", "mailto:ops@example.com")

    async with Api(vapid_key_file=tmp_path / "vapid.pem") as api:
        answer = await api.call("GET", PATH, "")

    assert (answer.status_code, answer.json()) == (200, {"public_key": signing.public_key})
    assert answer.headers["cache-control"] == "public, max-age=300"


async def test_an_ingest_for_devices_tells_it_and_needs_no_more_than_the_public_half(tmp_path: Path) -> None:
    public = write_key(tmp_path / "vapid.pem")
    (tmp_path / "public.pem").write_bytes(public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    signing = VapidKey.read(tmp_path / "vapid.pem", "mailto:ops@example.com")

    async with Api(vapid_key_file=tmp_path / "public.pem", ingest_audience="devices") as api:
        assert (await api.call("GET", PATH, "")).json() == {"public_key": signing.public_key}


async def test_a_page_of_an_allowed_origin_may_read_it(tmp_path: Path) -> None:
    write_key(tmp_path / "vapid.pem")

    async with Api(vapid_key_file=tmp_path / "vapid.pem", origins=("https://app.example",)) as api:
        answer = await api.call("GET", PATH, "", {"Origin": "https://app.example"})

    assert answer.headers["access-control-allow-origin"] == "https://app.example"


async def test_where_web_push_is_not_set_up_that_is_said(api: Api) -> None:
    answer = await api.call("GET", PATH, "")

    assert code_of(answer) == (404, "not_found")
    assert "GREGOR_VAPID_KEY_FILE" in answer.json()["detail"]


@pytest.mark.parametrize("content", ["", "nonsense", "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----"])
def test_a_file_without_a_key_ends_the_start_with_the_mend(tmp_path: Path, content: str) -> None:
    (tmp_path / "vapid.pem").write_text(content)

    with pytest.raises(ValueError, match=r"GREGOR_VAPID_KEY_FILE: .*vapid\.pem"):
        Api(vapid_key_file=tmp_path / "vapid.pem")


async def test_a_parameter_that_it_does_not_know_is_refused_as_everywhere(api: Api) -> None:
    assert code_of(await api.call("GET", PATH + "?key=1", "")) == (422, "unknown_field")
