"""Device tokens: algorithms, keys by `kid`, and known attacks on JWTs."""

import asyncio
import base64
import gzip
import hashlib
import hmac
import json
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm
from jwt.api_jws import PyJWS

from gregor.auth.device_tokens import (
    CACHE_SIZE,
    MAX_JWKS_BYTES,
    Caller,
    KeyNotLoaded,
    TokenVerifier,
    fetch_jwks,
    mint,
    parse_jwks,
)
from gregor.config.settings import Settings
from gregor.core.errors import Problem
from tests.support.certificates import write_certificate

NOW_S = 1_457_056_447
NOW_US = NOW_S * 1_000_000
SECRET = "0123456789abcdef0123456789abcdef"
GOOD: Mapping[str, Any] = {"sub": "alice", "device": "phone", "iat": NOW_S, "exp": NOW_S + 60}

RSA_KEY = rsa.generate_private_key(65_537, 2_048)
EC_KEY = ec.generate_private_key(ec.SECP256R1())
ED_KEY = ed25519.Ed25519PrivateKey.generate()
OCT = b"another secret of thirty-two byte"


def jwks() -> bytes:
    keys = [
        json.loads(RSAAlgorithm.to_jwk(RSA_KEY.public_key())) | {"kid": "r", "alg": "RS256", "use": "sig"},
        json.loads(ECAlgorithm.to_jwk(EC_KEY.public_key())) | {"kid": "e", "alg": "ES256"},
        json.loads(OKPAlgorithm.to_jwk(ED_KEY.public_key())) | {"kid": "d", "alg": "EdDSA"},
        {"kty": "oct", "kid": "h", "alg": "HS256", "k": base64.urlsafe_b64encode(OCT).decode().rstrip("=")},
    ]
    return json.dumps({"keys": keys}).encode()


class KeySource:
    """A JWKS document that counts how often it is read."""

    def __init__(self, document: bytes) -> None:
        self.document = document
        self.readings = 0
        self.is_down = False

    async def read(self, _place: str) -> bytes:
        self.readings += 1
        if self.is_down:
            raise OSError("no route")
        return self.document


def by_secret(**settings: Any) -> TokenVerifier:
    return TokenVerifier(Settings(token_secret=SECRET, **settings))


def by_keys(source: KeySource, **settings: Any) -> TokenVerifier:
    return TokenVerifier(Settings(token_jwks="https://login.example/keys", **settings), source.read)


def signed(claims: Mapping[str, Any], key: Any = SECRET, alg: str = "HS256", **headers: Any) -> str:
    return jwt.encode(dict(claims), key, alg, headers=headers)


def forged(header: Mapping[str, Any], claims: Mapping[str, Any], signature: bytes = b"") -> str:
    parts = (json.dumps(header).encode(), json.dumps(claims).encode(), signature)
    return ".".join(base64.urlsafe_b64encode(part).decode().rstrip("=") for part in parts)


async def refusal(tokens: TokenVerifier, token: str, now_us: int = NOW_US) -> Problem:
    with pytest.raises(Problem) as caught:
        await tokens.verify(token, now_us)
    return caught.value


async def test_minted_token_is_valid() -> None:
    token = mint(SECRET, "alice", "phone", 60, ["user.", "user.joined"], ["kbfs"], now_us=NOW_US)

    caller = await by_secret().verify(token, NOW_US)

    assert caller == Caller("alice", "phone", (NOW_S + 60) * 1_000_000, NOW_US, ("user",), ("kbfs",))


async def test_optional_claims_may_be_missing() -> None:
    caller = await by_secret().verify(signed(GOOD), NOW_US)

    assert (caller.iat_us, caller.category_filter, caller.systems) == (NOW_S * 1_000_000, None, None)


async def test_key_of_a_token_has_a_short_mark() -> None:
    """Tickets store the mark: it distinguishes keys, and is too short to confirm a guessed secret."""
    of_secret = (await by_secret().verify(signed(GOOD), NOW_US)).key_mark
    source = KeySource(jwks())
    keys = {"r": ("RS256", RSA_KEY), "e": ("ES256", EC_KEY), "d": ("EdDSA", ED_KEY), "h": ("HS256", OCT)}
    marks = [
        (await by_keys(source).verify(signed(GOOD, key, alg, kid=kid), NOW_US)).key_mark
        for kid, (alg, key) in keys.items()
    ]

    assert len({of_secret, *marks}) == 5
    assert {len(bytes.fromhex(mark)) for mark in (of_secret, *marks)} == {4}
    assert of_secret == (await by_secret().verify(signed({**GOOD, "sub": "bob"}), NOW_US)).key_mark


async def test_marks_name_the_key_and_the_required_claims() -> None:
    """The mark of the key stays that of earlier releases: services of both run side by side during an upgrade."""
    token = signed({**GOOD, "aud": "gregor", "iss": "login"})
    required: list[dict[str, str]] = [{}, {"token_aud": "gregor"}, {"token_iss": "login"}]
    required.append({"token_aud": "gregor", "token_iss": "login"})
    callers = [await by_secret(**settings).verify(token, NOW_US) for settings in required]

    mark = hashlib.sha256(b"gregor token key\0HS256\0" + SECRET.encode()).hexdigest()[:8]
    assert {caller.key_mark for caller in callers} == {mark}
    assert len({caller.claims_mark for caller in callers}) == 4


@pytest.mark.parametrize(
    ("kid", "alg", "key"),
    [("r", "RS256", RSA_KEY), ("e", "ES256", EC_KEY), ("d", "EdDSA", ED_KEY), ("h", "HS256", OCT)],
)
async def test_each_algorithm_with_the_key_of_its_kid(kid: str, alg: str, key: Any) -> None:
    caller = await by_keys(KeySource(jwks())).verify(signed(GOOD, key, alg, kid=kid), NOW_US)

    assert caller.uid == "alice"


@pytest.mark.parametrize("kid", ["r", "e", "d", "h"])
async def test_signature_of_another_key_is_refused(kid: str) -> None:
    others = {
        "r": (rsa.generate_private_key(65_537, 2_048), "RS256"),
        "e": (ec.generate_private_key(ec.SECP256R1()), "ES256"),
        "d": (ed25519.Ed25519PrivateKey.generate(), "EdDSA"),
        "h": (b"a third secret, of thirty-two bytes", "HS256"),
    }
    key, alg = others[kid]

    assert (await refusal(by_keys(KeySource(jwks())), signed(GOOD, key, alg, kid=kid))).code == "unauthorised"


async def test_unsigned_token_is_refused() -> None:
    for header in ({"alg": "none"}, {"alg": "None", "kid": "r"}, {"typ": "JWT"}):
        assert (await refusal(by_secret(), forged(header, GOOD))).code == "unauthorised"
        assert (
            await refusal(by_keys(KeySource(jwks()), token_secret=SECRET), forged(header, GOOD))
        ).code == "unauthorised"


async def test_public_key_is_not_an_hmac_secret() -> None:
    public = RSA_KEY.public_key()
    for encoding in (Encoding.PEM, Encoding.DER):
        secret = public.public_bytes(encoding, PublicFormat.SubjectPublicKeyInfo)
        head = {"alg": "HS256", "kid": "r", "typ": "JWT"}
        unsigned = forged(head, GOOD).rsplit(".", 1)[0]
        signature = hmac.digest(secret, unsigned.encode(), hashlib.sha256)

        problem = await refusal(by_keys(KeySource(jwks())), forged(head, GOOD, signature))

        assert problem.detail == "The token's alg differs from that of its key."


async def test_key_is_bound_to_its_algorithm() -> None:
    token = signed(GOOD, RSA_KEY, "RS512", kid="r")

    assert (await refusal(by_keys(KeySource(jwks())), token)).detail == "The token's alg differs from that of its key."


@pytest.mark.parametrize(
    ("claims", "word"),
    [
        ({"exp": None}, "exp"),
        ({"exp": str(NOW_S + 60)}, "exp"),
        ({"exp": True}, "exp"),
        ({"exp": 10**400}, "30 days"),
        ({"exp": float("inf")}, "JSON"),
        ({"exp": NOW_S - 31}, "expired"),
        ({"exp": NOW_S + 31 * 86_400}, "30 days"),
        ({"nbf": NOW_S + 31}, "nbf"),
        ({"nbf": "0"}, "nbf"),
        ({"iat": NOW_S + 31}, "iat"),
        ({"iat": -1}, "iat"),
        ({"sub": None}, "sub"),
        ({"sub": "a b"}, "sub"),
        ({"sub": 7}, "sub"),
        ({"device": None}, "device"),
        ({"device": "*"}, "device"),
        ({"cats": "user"}, "cats"),
        ({"cats": ["us er"]}, "cats"),
        ({"systems": [1]}, "systems"),
    ],
)
async def test_invalid_claim_is_named(claims: Mapping[str, Any], word: str) -> None:
    changed = {name: value for name, value in {**GOOD, **claims}.items() if value is not None}

    problem = await refusal(by_secret(), forged_with_secret(changed))

    assert problem.code == "unauthorised"
    assert word in problem.detail


def forged_with_secret(claims: Mapping[str, Any]) -> str:
    """Sign any claims with the right secret; PyJWT's own encoder refuses some of them."""
    return PyJWS().encode(json.dumps(claims).encode(), SECRET, "HS256")


async def test_clock_leeway_is_thirty_seconds() -> None:
    late, early = signed({**GOOD, "exp": NOW_S - 29}), signed({**GOOD, "nbf": NOW_S + 29, "iat": NOW_S + 29})

    assert (await by_secret().verify(late, NOW_US)).uid == "alice"
    assert (await by_secret().verify(early, NOW_US)).uid == "alice"


async def test_audience_and_issuer_are_checked_if_set() -> None:
    tokens = by_secret(token_aud="gregor", token_iss="login")
    good = {**GOOD, "aud": ["other", "gregor"], "iss": "login"}

    assert (await tokens.verify(signed(good), NOW_US)).uid == "alice"
    assert "aud" in (await refusal(tokens, signed({**good, "aud": "other"}))).detail
    assert "aud" in (await refusal(tokens, signed(GOOD))).detail
    assert "iss" in (await refusal(tokens, signed({**good, "iss": "else"}))).detail


@pytest.mark.parametrize("text", ["", "x", "a.b", "a.b.c", "é.é.é", "\udcff.a.b", "." * 3, "e" * 9_000, "gk_a_b"])
async def test_malformed_token_is_refused(text: str) -> None:
    assert (await refusal(by_secret(), text)).code == "unauthorised"


async def test_deeply_nested_claims_are_refused() -> None:
    token = PyJWS().encode(b"[" * 3_000, SECRET, "HS256")

    assert (await refusal(by_secret(), token)).code == "unauthorised"


async def test_unknown_critical_header_is_refused() -> None:
    assert (await refusal(by_secret(), signed(GOOD, crit=["x"], x=1))).code == "unauthorised"


@pytest.mark.parametrize("critical", [{}, {"crit": ["b64"]}])
async def test_unencoded_payload_is_refused(critical: dict[str, Any]) -> None:
    """RFC 7797: ``b64: false`` is a signature of the payload itself; ``b64: true`` changes nothing."""

    def with_b64(value: bool) -> str:
        # By hand, because PyJWT omits ``b64: true``.
        content = forged({"alg": "HS256", **critical, "b64": value}, GOOD).rstrip(".")
        signature = hmac.digest(SECRET.encode(), content.encode(), "sha256")
        return f"{content}.{base64.urlsafe_b64encode(signature).decode().rstrip('=')}"

    assert (await refusal(by_secret(), with_b64(False))).code == "unauthorised"
    assert (await by_secret().verify(with_b64(True), NOW_US)).uid == "alice"


async def test_no_token_is_valid_without_keys() -> None:
    assert "No keys" in (await refusal(TokenVerifier(Settings()), signed(GOOD))).detail


async def test_token_without_kid_needs_the_secret() -> None:
    both = by_keys(KeySource(jwks()), token_secret=SECRET)

    assert (await both.verify(signed(GOOD), NOW_US)).uid == "alice"
    assert (await refusal(both, signed(GOOD, RSA_KEY, "RS256"))).code == "unauthorised"
    assert "has no kid" in (await refusal(by_keys(KeySource(jwks())), signed(GOOD))).detail


async def test_unknown_kid_reloads_keys_every_ten_seconds() -> None:
    source = KeySource(jwks())
    tokens = by_keys(source, token_secret=SECRET)
    unknown = signed(GOOD, kid="new")

    for _ in range(3):
        assert "unknown" in (await refusal(tokens, unknown)).detail
    assert source.readings == 1

    assert "unknown" in (await refusal(tokens, unknown, NOW_US + 9_900_000)).detail
    assert source.readings == 1
    assert "unknown" in (await refusal(tokens, unknown, NOW_US + 10_000_000)).detail
    assert source.readings == 2


async def test_new_key_is_awaited_while_a_stranger_uses_up_the_loads() -> None:
    """Its tokens are refused for seconds at most, and not for good: a client would stop."""
    source = KeySource(b'{"keys":[%s]}' % json.dumps(json.loads(jwks())["keys"][0]).encode())
    tokens = by_keys(source)
    await refusal(tokens, signed(GOOD, kid="stranger"))
    source.document = jwks()
    token = signed(GOOD, ED_KEY, "EdDSA", kid="d")

    refused = await refusal(tokens, token, NOW_US + 4_000_000)

    assert isinstance(refused, KeyNotLoaded)
    assert (refused.status, refused.retry_after_s) == (401, 6)
    assert (await tokens.verify(token, NOW_US + 10_000_000)).uid == "alice"


@pytest.mark.parametrize(
    ("iat", "is_final"),
    [(NOW_S - 40, True), (NOW_S - 20, False), (NOW_S + 20, False), (NOW_S + 50, True), (-1, True), ("x", True)],
)
async def test_unknown_kid_is_final_if_the_keys_are_newer_than_the_token(iat: object, is_final: bool) -> None:
    """Clocks may differ by 30 seconds; a token of a later time is invalid in any case."""
    tokens = by_keys(KeySource(jwks()))
    await tokens.load(NOW_US)

    refused = await refusal(tokens, forged({"alg": "EdDSA", "kid": "new"}, {**GOOD, "iat": iat}, b"x"))

    assert isinstance(refused, KeyNotLoaded) is not is_final
    assert refused.code == "unauthorised"


async def test_unreadable_claims_of_an_unknown_kid_are_refused() -> None:
    tokens = by_keys(KeySource(jwks()))
    header = base64.urlsafe_b64encode(b'{"alg":"EdDSA","kid":"new"}').decode().rstrip("=")
    for claims in ("", "A", "bnVsbA", "W10", base64.urlsafe_b64encode(b"[" * 5_000).decode().rstrip("=")):
        refused = await refusal(tokens, f"{header}.{claims or 'AA'}.AA")
        assert (type(refused), refused.code) == (Problem, "unauthorised")


async def test_encryption_key_verifies_nothing() -> None:
    public = json.loads(RSAAlgorithm.to_jwk(RSA_KEY.public_key()))
    del public["key_ops"]
    others = [{**public, "kid": "use", "use": "enc"}, {**public, "kid": "ops", "key_ops": ["encrypt"]}]
    good = [{**public, "kid": "both", "use": "sig", "key_ops": ["sign", "verify"]}]
    tokens = by_keys(KeySource(json.dumps({"keys": [*others, *good]}).encode()))

    for kid in ("use", "ops"):
        assert "unknown" in (await refusal(tokens, signed(GOOD, RSA_KEY, "RS256", kid=kid))).detail
    assert (await tokens.verify(signed(GOOD, RSA_KEY, "RS256", kid="both"), NOW_US)).uid == "alice"


async def test_rotated_key_is_loaded() -> None:
    source = KeySource(b'{"keys":[]}')
    tokens = by_keys(source)
    token = signed({**GOOD, "exp": NOW_S + 600}, ED_KEY, "EdDSA", kid="d")
    assert (await refusal(tokens, token)).code == "unavailable"

    source.document = jwks()

    assert (await tokens.verify(token, NOW_US + 61_000_000)).uid == "alice"


async def test_failed_load_keeps_the_current_keys() -> None:
    source = KeySource(jwks())
    tokens = by_keys(source)
    token = signed({**GOOD, "exp": NOW_S + 6_000}, ED_KEY, "EdDSA", kid="d")
    await tokens.verify(token, NOW_US)
    source.is_down = True

    await tokens.load(NOW_US + 700_000_000)

    assert (await tokens.verify(token, NOW_US + 700_000_000)).uid == "alice"
    other = signed({**GOOD, "exp": NOW_S + 6_000, "sub": "bob"}, ED_KEY, "EdDSA", kid="d")
    assert (await tokens.verify(other, NOW_US + 700_000_000)).uid == "bob"


async def test_token_of_a_removed_key_is_refused() -> None:
    source = KeySource(jwks())
    tokens = by_keys(source, token_secret=SECRET)
    token = signed({**GOOD, "exp": NOW_S + 6_000}, ED_KEY, "EdDSA", kid="d")
    await tokens.verify(token, NOW_US)
    source.document = json.dumps({"keys": [each for each in json.loads(jwks())["keys"] if each["kid"] == "h"]}).encode()

    await tokens.load(NOW_US + 600_000_000)

    assert "unknown" in (await refusal(tokens, token, NOW_US + 600_000_000)).detail


async def test_key_of_a_key_set_is_known_until_it_is_removed() -> None:
    source = KeySource(jwks())
    tokens = by_keys(source, token_secret=SECRET)
    token = signed({**GOOD, "exp": NOW_S + 6_000}, ED_KEY, "EdDSA", kid="d")
    mark = (await tokens.verify(token, NOW_US)).key_mark
    source.document = json.dumps({"keys": [each for each in json.loads(jwks())["keys"] if each["kid"] != "r"]}).encode()
    await tokens.load(NOW_US + 600_000_000)
    await tokens.check_key(mark, NOW_US, NOW_US + 600_000_000)
    assert tokens.removals == 1

    source.document = b'{"keys":[]}'
    await tokens.load(NOW_US + 1_200_000_000)

    assert not tokens.has_key(mark)
    assert tokens.removals == 2
    assert tokens.has_key((await tokens.verify(signed({**GOOD, "exp": NOW_S + 6_000}), NOW_US)).key_mark)


async def test_failed_load_removes_no_key() -> None:
    source = KeySource(jwks())
    tokens = by_keys(source)
    mark = (await tokens.verify(signed(GOOD, ED_KEY, "EdDSA", kid="d"), NOW_US)).key_mark
    for source.document, source.is_down in ((b"", False), (b"", True)):
        await tokens.load(NOW_US)

    assert tokens.has_key(mark)
    assert tokens.removals == 0


async def test_unknown_mark_reloads_keys_every_ten_seconds() -> None:
    """A ticket may come from a token of a key that this process has not loaded yet."""
    source = KeySource(b'{"keys":[]}')
    tokens = by_keys(source)
    mark = (await by_keys(KeySource(jwks())).verify(signed(GOOD, ED_KEY, "EdDSA", kid="d"), NOW_US)).key_mark

    async def code(mark: str, now_us: int) -> str:
        with pytest.raises(Problem) as caught:
            await tokens.check_key(mark, NOW_US - 60_000_000, now_us)
        return caught.value.code

    assert await code(mark, NOW_US) == "unavailable"
    source.document = jwks()
    assert await code(mark, NOW_US + 9_000_000) == "unavailable"
    await tokens.check_key(mark, NOW_US, NOW_US + 10_000_000)
    assert await code("00000000", NOW_US + 10_000_000) == "unauthorised"
    assert source.readings == 2


async def test_cached_token_expires() -> None:
    tokens = by_secret()
    token = signed(GOOD)
    await tokens.verify(token, NOW_US)

    assert "expired" in (await refusal(tokens, token, NOW_US + 90_000_000)).detail


async def test_cached_token_is_ten_times_faster() -> None:
    tokens = by_keys(KeySource(jwks()))
    token = signed({**GOOD, "exp": NOW_S + 6_000}, RSA_KEY, "RS256", kid="r")
    begin = time.perf_counter()
    await tokens.verify(token, NOW_US)
    first_s = time.perf_counter() - begin

    later_s = first_s
    for _ in range(100):  # the shortest of many: other processes only add time
        begin = time.perf_counter()
        await tokens.verify(token, NOW_US)
        later_s = min(later_s, time.perf_counter() - begin)

    assert later_s < first_s / 10
    assert CACHE_SIZE < 100_000


def test_unusable_keys_have_a_reason() -> None:
    weak = json.loads(RSAAlgorithm.to_jwk(rsa.generate_private_key(65_537, 1_024).public_key()))
    p384 = json.loads(ECAlgorithm.to_jwk(ec.generate_private_key(ec.SECP384R1()).public_key()))
    rsa_key = json.loads(RSAAlgorithm.to_jwk(RSA_KEY.public_key()))
    entries = [
        weak | {"kid": "weak"},
        p384 | {"kid": "p384"},
        rsa_key | {"kid": "enc", "use": "enc"},
        rsa_key | {"kid": "swapped", "alg": "HS256"},
        rsa_key | {"kid": "rs512", "alg": "RS512"},
        {"kty": "RSA", "kid": "broken", "n": "?"},
        rsa_key,
        "no key",
        rsa_key | {"kid": "good"},
    ]

    keys, unusable = parse_jwks(json.dumps({"keys": entries}).encode())

    assert set(keys) == {"good"}
    assert unusable == {
        "weak": "the RSA key is shorter than 2048 bits; make one: openssl genrsa 2048",
        "p384": "kty or crv does not fit to alg ES256",
        "enc": "it is not for verifying signatures (use, key_ops)",
        "swapped": "kty or crv does not fit to alg HS256",
        "rs512": "alg 'RS512' is not supported; supported are HS256, RS256, ES256, EdDSA, Ed25519",
        "broken": "the key is malformed",
    }


@pytest.mark.parametrize("member", ["use", "key_ops", "alg", "kty", "crv", "x", "y", "n", "e", "k"])
@pytest.mark.parametrize("value", [5, [], [[]], {}, None, True, 1.5, "\u0000", "é"])
def test_jwks_entry_of_wrong_types_is_left_out(member: str, value: object) -> None:
    good = json.loads(RSAAlgorithm.to_jwk(RSA_KEY.public_key()))
    odd = [good | {"kid": "odd", member: value}, {"kty": "oct", "k": "YQ", "kid": "odd oct", member: value}]

    keys, _ = parse_jwks(json.dumps({"keys": [*odd, good | {"kid": "good"}]}).encode())

    assert "good" in keys


@contextmanager
def key_server(
    directory: Path,
    monkeypatch: pytest.MonkeyPatch,
    body: bytes,
    encoding: str = "",
    *,
    is_complete: bool = True,
    status: int = 200,
) -> Iterator[tuple[str, list[str]]]:
    """Serve a document over TLS. Yields its URL, and the accepted encodings of the requests so far.

    A response that is not complete never ends.
    """
    certificate = write_certificate(directory)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(certificate)
    accepted: list[str] = []
    is_over = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            accepted.append(self.headers["Accept-Encoding"])
            self.send_response(status)
            self.send_header("Content-Length", str(len(body) + (0 if is_complete else 1)))
            if encoding:
                self.send_header("Content-Encoding", encoding)
            with suppress(OSError):  # the client may close before it has read all
                self.end_headers()
                self.wfile.write(body)
            if not is_complete:
                is_over.wait()

        def log_message(self, format: str, *args: object) -> None:
            """Log nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever, args=(0.01,)).start()
        try:
            yield f"https://127.0.0.1:{server.server_port}/keys", accepted
        finally:
            is_over.set()
            server.shutdown()


async def test_slow_key_server_has_a_total_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gregor.auth.device_tokens.READ_TIMEOUT_S", 0.5)

    with key_server(tmp_path, monkeypatch, b'{"keys":[', is_complete=False) as (url, _):
        tokens = TokenVerifier(Settings(token_jwks=url))
        async with asyncio.timeout(60):
            await tokens.load(NOW_US)
        assert (await refusal(tokens, signed(GOOD, kid="a"))).code == "unavailable"


async def test_key_set_of_short_lines_is_read_up_to_its_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    body = (b" " * 39 + b"\n") * (MAX_JWKS_BYTES // 40)

    with key_server(tmp_path, monkeypatch, body) as (url, _):
        assert await fetch_jwks(url) == body


async def test_deeply_nested_key_set_is_ignored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    body = b'{"keys":' + b"[" * 100_000 + b"]" * 100_000 + b"}"

    with key_server(tmp_path, monkeypatch, body) as (url, _):
        tokens = TokenVerifier(Settings(token_jwks=url))
        await tokens.load(NOW_US)
        assert (await refusal(tokens, signed(GOOD, kid="a"))).code == "unavailable"


@pytest.mark.parametrize("host", ["xn--aü.example", "☃..example", "ü" * 300])
async def test_impossible_host_of_the_key_set_is_logged(host: str, capsys: pytest.CaptureFixture[str]) -> None:
    tokens = TokenVerifier(Settings(token_jwks=f"https://{host}/secret-path"))

    await tokens.load(NOW_US)

    logged = capsys.readouterr().out
    assert "jwks.load_failed" in logged and "secret-path" not in logged
    assert (await refusal(tokens, signed(GOOD, kid="a"))).code == "unavailable"


async def test_compressed_key_set_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    body = gzip.compress(jwks())

    with (
        key_server(tmp_path, monkeypatch, body, "gzip") as (url, accepted),
        pytest.raises(ValueError, match="compressed"),
    ):
        await fetch_jwks(url)
    assert accepted == ["identity"]


@pytest.mark.parametrize("excess", [0, 1])
async def test_key_set_has_a_limit_in_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, excess: int) -> None:
    with key_server(tmp_path, monkeypatch, b" " * (MAX_JWKS_BYTES + excess)) as (url, _):
        if excess:
            with pytest.raises(ValueError, match="over 1 MiB"):
                await fetch_jwks(url)
        else:
            assert len(await fetch_jwks(url)) == MAX_JWKS_BYTES


@pytest.mark.parametrize("status", [302, 404, 500])
async def test_refusal_of_a_key_server_does_not_quote_its_url(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    with key_server(tmp_path, monkeypatch, b"", status=status) as (url, _), pytest.raises(ValueError) as caught:
        await fetch_jwks(url)

    assert str(caught.value) == f"the key server answers {status}"


async def test_each_of_several_secrets_verifies() -> None:
    old, new, other = (f"{name} secret, long enough for HS256!" for name in ("old", "new", "another"))
    tokens = TokenVerifier(Settings(token_secret=f"{new}\r\n{old}\n"))

    for secret in (old, new):
        assert (await tokens.verify(signed(GOOD, secret), NOW_US)).uid == "alice"
    assert "signature" in (await refusal(tokens, signed(GOOD, other))).detail
    assert "signature" in (await refusal(tokens, signed(GOOD, f"{new}\r\n{old}\n"))).detail


async def test_claims_are_checked_for_every_secret() -> None:
    old, new = "old secret, long enough for HS256!", "new secret, long enough for HS256!"
    tokens = TokenVerifier(Settings(token_secret=f"{new}\n{old}"))

    for secret in (old, new):
        assert "expired" in (await refusal(tokens, signed({**GOOD, "exp": NOW_S - 60}, secret))).detail


async def test_removed_secret_refuses_cached_tokens() -> None:
    old, new = "old secret, long enough for HS256!", "new secret, long enough for HS256!"
    tokens = TokenVerifier(Settings(token_secret=old))
    token = signed(GOOD, old)
    await tokens.verify(token, NOW_US)

    await tokens.use_secrets(Settings(token_secret=f"{new}\n{old}"))
    assert (await tokens.verify(token, NOW_US)).uid == "alice"
    await tokens.use_secrets(Settings(token_secret=new))
    assert "signature" in (await refusal(tokens, token)).detail


async def test_only_a_removed_secret_counts_as_a_removal() -> None:
    old, new = "old secret, long enough for HS256!", "new secret, long enough for HS256!"
    tokens = TokenVerifier(Settings(token_secret=old))
    mark = (await tokens.verify(signed(GOOD, old), NOW_US)).key_mark
    removals = []
    for values in ((new, old), (old, new), (new,), (new,)):
        await tokens.use_secrets(Settings(token_secret="\n".join(values)))
        removals.append((tokens.removals, tokens.has_key(mark)))

    assert removals == [(0, True), (0, True), (1, False), (1, False)]


@pytest.mark.parametrize("secret", [b"a", b"a" * 64, b"0123456789abcdef0123456789abcde"])
def test_weak_oct_key_is_refused_unless_allowed(secret: bytes) -> None:
    k = base64.urlsafe_b64encode(secret).decode().rstrip("=")
    document = json.dumps({"keys": [{"kty": "oct", "kid": "weak", "k": k}]}).encode()

    keys, unusable = parse_jwks(document)

    assert not keys and unusable["weak"].endswith("; use 32 random bytes: openssl rand -base64 32")
    assert set(parse_jwks(document, allows_weak=True)[0]) == {"weak"}


PRIME = 2**255 - 19
Y_OF_ORDER_8 = int("5fc536d880238b13933c6d305acdfd5f098eff289f4c345b027b2c28f95e826", 16)


@pytest.mark.parametrize("y", [0, 1, PRIME - 1, PRIME, PRIME + 1, Y_OF_ORDER_8, PRIME - Y_OF_ORDER_8])
@pytest.mark.parametrize("sign", [0, 1 << 255])
def test_ed25519_key_of_small_order_is_refused(y: int, sign: int) -> None:
    x = base64.urlsafe_b64encode((y | sign).to_bytes(32, "little")).decode().rstrip("=")
    document = json.dumps({"keys": [{"kty": "OKP", "crv": "Ed25519", "kid": "small", "x": x}]}).encode()

    keys, unusable = parse_jwks(document)

    assert not keys and unusable["small"].startswith("the Ed25519 key has a small order")


def test_anybody_can_sign_for_an_ed25519_key_of_small_order() -> None:
    """OpenSSL accepts this signature, which needs no private key, for one message in eight. So we refuse the key."""
    key = ed25519.Ed25519PublicKey.from_public_bytes(Y_OF_ORDER_8.to_bytes(32, "little"))
    signature = (1).to_bytes(32, "little") + bytes(32)

    def is_valid(message: bytes) -> bool:
        try:
            key.verify(signature, message)
        except InvalidSignature:
            return False
        return True

    assert any(is_valid(b"%d" % n) for n in range(1_000))


async def test_token_without_iat_is_refused() -> None:
    """Otherwise a token that lives longer than revocations are stored would become valid again."""
    without = {name: value for name, value in GOOD.items() if name != "iat"}

    assert "iat" in (await refusal(by_secret(), signed(without))).detail


@pytest.mark.parametrize("document", [b"", b"[]", b'{"keys":{}}', b"\xff"])
def test_malformed_jwks_is_an_error(document: bytes) -> None:
    with pytest.raises(ValueError):
        parse_jwks(document)


@pytest.mark.parametrize("key_alg", ["EdDSA", "Ed25519", None])
@pytest.mark.parametrize("token_alg", ["EdDSA", "Ed25519"])
async def test_both_names_of_ed25519_are_accepted(key_alg: str | None, token_alg: str) -> None:
    jwk = json.loads(OKPAlgorithm.to_jwk(ED_KEY.public_key())) | {"kid": "d"} | ({"alg": key_alg} if key_alg else {})
    header = {"alg": token_alg, "kid": "d"}
    unsigned = forged(header, GOOD).rsplit(".", 1)[0]
    token = forged(header, GOOD, ED_KEY.sign(unsigned.encode()))

    caller = await by_keys(KeySource(json.dumps({"keys": [jwk]}).encode())).verify(token, NOW_US)

    assert caller.uid == "alice"


@pytest.mark.parametrize("change", [lambda token: token + "=", lambda token: token.replace(".", "=.", 1)])
async def test_padding_in_a_token_is_refused(change: Callable[[str], str]) -> None:
    assert (await refusal(by_secret(), change(signed(GOOD)))).code == "unauthorised"


async def test_ignored_keys_are_logged_once(capsys: pytest.CaptureFixture[str]) -> None:
    es384 = json.loads(ECAlgorithm.to_jwk(ec.generate_private_key(ec.SECP384R1()).public_key()))
    keys = [es384 | {"kid": "one", "alg": "ES384"}, {"kty": "RSA", "kid": "two", "alg": "PS256"}]
    tokens = by_keys(KeySource(json.dumps({"keys": keys}).encode()))

    for _ in range(2):
        await tokens.load(NOW_US)

    lines = [line for line in capsys.readouterr().out.splitlines() if "jwks.key_ignored" in line]
    assert len(lines) == 2 and "kid=one" in lines[0] and "PS256" in lines[1]


@pytest.mark.parametrize(("settings", "warnings"), [({}, 1), ({"token_secret": SECRET}, 0)])
async def test_missing_keys_are_warned_of_at_start(
    settings: dict[str, Any], warnings: int, capsys: pytest.CaptureFixture[str]
) -> None:
    await TokenVerifier(Settings(**settings)).load(NOW_US)

    assert capsys.readouterr().out.count("device_tokens.no_key") == warnings
