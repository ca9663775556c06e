"""Whose certificates are trusted where a setting names a file of authorities."""

import ssl
from pathlib import Path


def trusting(ca_file: Path | None) -> ssl.SSLContext:
    """TLS of a client that trusts the authorities in `ca_file`, of the system where it is None. Raises OSError.

    Authorities of one's own are taken as they are: since Python 3.13 the default refuses those that lack an extension
    of RFC 5280 (such as their key usage), and a file must not be good or bad by the Python that reads it.
    """
    context = ssl.create_default_context(cafile=ca_file)
    if ca_file is not None:
        context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    return context
