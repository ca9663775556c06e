"""The public VAPID key over HTTP."""

from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from gregor.auth.vapid import VapidKey
from gregor.dev.fakes.keys import write_key
from tests.support.api import Api, code_of

PATH = "/v1/push/webpush"


async def test_web_push_key_is_public(tmp_path: Path) -> None:
    write_key(tmp_path / "vapid.pem")
    signing = VapidKey.read(tmp_path / "vapid.pem", "mailto:ops@example.com")

    async with Api(vapid_key_file=tmp_path / "vapid.pem") as api:
        answer = await api.call("GET", PATH, "")

    assert (answer.status_code, answer.json()) == (200, {"public_key": signing.public_key})
    assert answer.headers["cache-control"] == "public, max-age=300"


async def test_web_push_key_for_the_devices_audience(tmp_path: Path) -> None:
    public = write_key(tmp_path / "vapid.pem")
    (tmp_path / "public.pem").write_bytes(public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    signing = VapidKey.read(tmp_path / "vapid.pem", "mailto:ops@example.com")

    async with Api(vapid_key_file=tmp_path / "public.pem", ingest_audience="devices") as api:
        assert (await api.call("GET", PATH, "")).json() == {"public_key": signing.public_key}


async def test_allowed_origin_reads_the_web_push_key(tmp_path: Path) -> None:
    write_key(tmp_path / "vapid.pem")

    async with Api(vapid_key_file=tmp_path / "vapid.pem", origins=("https://app.example",)) as api:
        answer = await api.call("GET", PATH, "", {"Origin": "https://app.example"})

    assert answer.headers["access-control-allow-origin"] == "https://app.example"


async def test_web_push_key_without_configuration_is_404(api: Api) -> None:
    answer = await api.call("GET", PATH, "")

    assert code_of(answer) == (404, "not_found")
    assert "GREGOR_VAPID_KEY_FILE" in answer.json()["detail"]


@pytest.mark.parametrize("content", ["", "nonsense", "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----"])
def test_invalid_vapid_file_fails_the_start(tmp_path: Path, content: str) -> None:
    (tmp_path / "vapid.pem").write_text(content)

    with pytest.raises(ValueError, match=r"GREGOR_VAPID_KEY_FILE: .*vapid\.pem"):
        Api(vapid_key_file=tmp_path / "vapid.pem")


async def test_web_push_key_refuses_unknown_parameters(api: Api) -> None:
    assert code_of(await api.call("GET", PATH + "?key=1", "")) == (422, "unknown_field")
