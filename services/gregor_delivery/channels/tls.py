"""TLS contexts of clients, with the system's certificate authorities or with those of a file."""

import ssl
from pathlib import Path


def client_context(ca_file: Path | None) -> ssl.SSLContext:
    """Return a context that trusts the authorities in `ca_file`; None: the system's. Raises OSError.

    Private authorities are not checked strictly: since Python 3.13 the default rejects those without some extensions of
    RFC 5280, such as key usage: the same file would work with one Python and fail with another.
    """
    context = ssl.create_default_context(cafile=ca_file)
    if ca_file is not None:
        context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    return context
