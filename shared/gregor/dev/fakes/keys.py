"""Keys for fakes and tests, as providers give them."""

from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat


def write_key(path: Path) -> ec.EllipticCurvePublicKey:
    """A new private key of P-256 in a file of PEM, readable by its owner alone; its public half."""
    key = ec.generate_private_key(ec.SECP256R1())
    path.touch(0o600)
    path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return key.public_key()
