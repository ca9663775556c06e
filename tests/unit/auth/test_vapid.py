"""The VAPID key: file formats, and the tokens that it signs."""

from email.headerregistry import Address
from pathlib import Path
from urllib.parse import urlsplit

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from hypothesis import given
from hypothesis import strategies as st

from gregor.auth.vapid import MAX_CACHED, VapidKey, base64url, from_base64url, subject_problem
from gregor.clock import ManualClock

NOW_US = 1_457_056_447_000_000
SUBJECT = "mailto:ops@example.com"


def key_file(path: Path, curve: ec.EllipticCurve | None = None) -> ec.EllipticCurvePrivateKey:
    key = ec.generate_private_key(curve or ec.SECP256R1())
    path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return key


def claims(header: str) -> dict[str, object]:
    token = header.removeprefix("vapid t=").partition(",")[0]
    read: dict[str, object] = jwt.decode(token, options={"verify_signature": False})
    return read


def test_pem_and_base64url_key_are_equal(tmp_path: Path) -> None:
    key = key_file(tmp_path / "key.pem")
    (tmp_path / "key.txt").write_text(base64url(key.private_numbers().private_value.to_bytes(32, "big")) + "\n")

    read = [VapidKey.read(tmp_path / name, SUBJECT).public_key for name in ("key.pem", "key.txt")]

    assert read[0] == read[1]
    assert len(from_base64url(read[0])) == 65


def test_token_has_audience_subject_and_expiry(tmp_path: Path) -> None:
    key = key_file(tmp_path / "key.pem")
    vapid = VapidKey.read(tmp_path / "key.pem", SUBJECT, ManualClock(NOW_US))

    header = vapid.authorization("https://push.example")

    assert claims(header) == {"aud": "https://push.example", "sub": SUBJECT, "exp": 1_457_056_447 + 12 * 3_600}
    assert header.endswith(f", k={vapid.public_key}")
    token = header.removeprefix("vapid t=").partition(",")[0]
    assert jwt.decode(token, key.public_key(), algorithms=["ES256"], options={"verify_exp": False, "verify_aud": False})


def test_cached_tokens_are_bounded(tmp_path: Path) -> None:
    key_file(tmp_path / "key.pem")
    vapid = VapidKey.read(tmp_path / "key.pem", SUBJECT, ManualClock(NOW_US))
    headers = [vapid.authorization(f"https://o{n}.notify.windows.com") for n in range(MAX_CACHED)]
    assert vapid.cached == MAX_CACHED

    vapid.authorization("https://one-more.notify.windows.com")

    assert vapid.cached == MAX_CACHED
    assert vapid.authorization("https://o1.notify.windows.com") == headers[1]
    assert vapid.authorization("https://o0.notify.windows.com") != headers[0]


def test_token_is_cached_for_each_push_service(tmp_path: Path) -> None:
    key_file(tmp_path / "key.pem")
    clock = ManualClock(NOW_US)
    vapid = VapidKey.read(tmp_path / "key.pem", SUBJECT, clock)
    first = vapid.authorization("https://push.example")

    clock.advance(10 * 3_600)
    assert vapid.authorization("https://push.example") == first
    assert vapid.authorization("https://other.example") != first
    clock.advance(2 * 3_600)
    assert vapid.authorization("https://push.example") != first


HEADER_ALONE = "-----BEGIN PRIVATE KEY-----"  # pragma: allowlist secret


@pytest.mark.parametrize("content", ["", "nonsense", HEADER_ALONE, "AAAA", "\udcff"])
def test_invalid_key_file_names_the_setting(tmp_path: Path, content: str) -> None:
    (tmp_path / "key").write_text(content, errors="surrogateescape")

    with pytest.raises(ValueError, match=r"^GREGOR_VAPID_KEY_FILE: .+ \(PEM, or 32 bytes in base64url\)$"):
        VapidKey.read(tmp_path / "key", SUBJECT)


def test_key_of_another_curve_is_refused(tmp_path: Path) -> None:
    key_file(tmp_path / "key", ec.SECP384R1())

    for name in ("key", "missing"):
        with pytest.raises(ValueError, match="GREGOR_VAPID_KEY_FILE"):
            VapidKey.read(tmp_path / name, SUBJECT)


NOT_CONTACTS = [
    "",
    "ops@keybase.io",
    "http://keybase.io",
    "tel:+15550100",
    "mailto:",
    "mailto:ops",
    "mailto: a@keybase.io",
    "mailto:a@keybase.io ",
    "mailto:<a@keybase.io>",
    "mailto:Alice <a@keybase.io>",
    "mailto:mailto:a@keybase.io",
    "mailto:@keybase.io",
    "mailto:a@",
    "mailto:a@-.-",
    "mailto:a@keybase..io",
    "mailto:a@b@keybase.io",
    "mailto:a@keybase.io,b@keybase.io",
    "mailto:a@keybase.io?subject=push",
    "mailto:a%20b@keybase.io",
    "mailto:a?b@keybase.io",
    "mailto:a@[::1]",
    "mailto:a@k\u00e9ybase.io",
    "https://",
    "https:keybase.io",
    "https:///contact",
    "https://[keybase.io",
    "https://keybase.io:port",
    "https://a@keybase.io",
    "https://-.-",
    "https://keybase.io/our contact",
]


@pytest.mark.parametrize("subject", NOT_CONTACTS)
def test_invalid_subject_is_refused(tmp_path: Path, subject: str) -> None:
    key_file(tmp_path / "key")

    with pytest.raises(ValueError, match="GREGOR_VAPID_SUBJECT") as refused:
        VapidKey.read(tmp_path / "key", subject)
    assert str(refused.value) == subject_problem(subject) == subject_problem(subject, allows_private=True)
    assert "mailto:you@your-domain" in str(refused.value)


TOP_LEVELS = st.sampled_from(["io", "com", "org", "museum", "xn--p1ai"])
LABELS = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,8}[a-z0-9])?", fullmatch=True)
DOMAINS = st.builds(
    lambda labels, top: ".".join([*labels, top]), st.lists(LABELS, min_size=1, max_size=3), TOP_LEVELS
).filter(lambda domain: not domain.startswith("example.") and ".example." not in domain)
LOCAL_PARTS = st.from_regex(r"[a-z0-9+_-]{1,8}(\.[a-z0-9+_-]{1,8}){0,2}", fullmatch=True)
ADDRESSES = st.builds("mailto:{}@{}".format, LOCAL_PARTS, DOMAINS)
SUBJECTS = st.one_of(ADDRESSES, st.builds("https://{}{}".format, DOMAINS, st.sampled_from(["", "/", ":8443/contact"])))


@given(SUBJECTS)
def test_plain_contact_is_accepted(subject: str) -> None:
    assert subject_problem(subject) is None


@given(SUBJECTS, st.sampled_from(' \t\r\n<>"\u00e9\u200b\x00'), st.data())
def test_contact_with_a_forbidden_character_is_refused(subject: str, character: str, data: st.DataObject) -> None:
    # The path of a URL may contain brackets and quotes, its domain must not.
    at = data.draw(st.integers(0, len(subject) if subject.startswith("mailto:") else len("https://")))

    assert subject_problem(subject[:at] + character + subject[at:], allows_private=True) is not None


@given(st.text(max_size=20) | st.builds("{}@{}".format, st.text("a.-@:<? %", max_size=6), st.text("a.-@:", max_size=6)))
def test_accepted_text_is_one_address_or_url(subject: str) -> None:
    for text in (subject, f"mailto:{subject}", f"https://{subject}"):
        if subject_problem(text, allows_private=True) is not None:
            continue
        assert "no public domain" in (subject_problem(text) or "no public domain")
        url = urlsplit(text)
        if url.scheme == "mailto":
            assert (url.query, url.fragment) == ("", "")
            assert Address(addr_spec=url.path).addr_spec == url.path
        else:
            assert url.scheme == "https"
            assert url.hostname


@pytest.mark.parametrize(
    "subject",
    [
        "mailto:ops@localhost",
        "mailto:ops@gregor.local",
        "mailto:ops@gregor.internal",
        "mailto:ops@127.0.0.1",
        "https://localhost:8700",
        "https://10.0.0.1",
        "https://gregor",
        "mailto:ops@example.com",
        "mailto:ops@mail.example.org",
        "https://EXAMPLE.net./contact",
        "mailto:ops@gregor.example",
        "mailto:ops@gregor.test",
        "mailto:ops@gregor.invalid",
    ],
)
def test_subject_needs_a_public_domain(subject: str) -> None:
    problem = subject_problem(subject)

    assert problem is not None
    assert "GREGOR_VAPID_SUBJECT" in problem
    assert "mailto:you@your-domain" in problem


@pytest.mark.parametrize(
    "subject",
    ["mailto:ops@keybase.io", "https://keybase.io", "https://push.keybase.io/contact", "mailto:a@myexample.com"],
)
def test_subject_with_a_public_domain_is_good(subject: str) -> None:
    assert subject_problem(subject) is None
