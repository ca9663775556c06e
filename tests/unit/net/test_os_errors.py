"""The operating system text of an error, without the additions of libraries."""

import asyncio
import errno
import socket
import ssl

import pytest

from gregor.net.os_errors import os_error_text
from tests.support.ports import free_ports


async def test_refused_connection_has_the_plain_system_text() -> None:
    with pytest.raises(OSError) as refused:
        await asyncio.open_connection("127.0.0.1", free_ports(1))

    assert os_error_text(refused.value) == "Connection refused"


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (
            OSError(errno.EADDRINUSE, "Address already in use (while attempting to bind on address x)"),
            "Address already in use",
        ),
        (socket.gaierror(-2, "Name or service not known"), "Name or service not known"),
        (ssl.SSLError(1, "certificate verify failed"), "certificate verify failed"),
        (OSError("Multiple exceptions: a, b"), "Multiple exceptions: a, b"),
    ],
)
def test_os_error_text(error: OSError, reason: str) -> None:
    assert os_error_text(error) == reason
