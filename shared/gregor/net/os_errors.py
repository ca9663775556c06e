"""What the system says of an error, in its own words and no others."""

from __future__ import annotations

import os
import socket
import ssl


def os_error_text(error: OSError) -> str:
    """`Connection refused` of ``[Errno 111] Connect call failed ('127.0.0.1', 8701)``: who tells it names the place.

    The numbers of TLS and of the resolver are none of the system's: these errors keep their own words.
    """
    if isinstance(error, ssl.SSLError | socket.gaierror) or not error.errno:
        return error.strerror or str(error)
    return os.strerror(error.errno)
