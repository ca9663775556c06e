"""The operating system's own text of an error, without the additions of libraries."""

from __future__ import annotations

import os
import socket
import ssl


def os_error_text(error: OSError) -> str:
    """Return ``Connection refused`` for ``[Errno 111] Connect call failed ('127.0.0.1', 8701)``.

    The caller adds the address. Errors of TLS and of name resolution keep their text, because their numbers are not
    errnos.
    """
    if isinstance(error, ssl.SSLError | socket.gaierror) or not error.errno:
        return error.strerror or str(error)
    return os.strerror(error.errno)
