"""Options of the listening socket."""

from __future__ import annotations

import socket
import sys

import pytest

from gregor.web.serving import TCP_USER_TIMEOUT_MS, listen


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux says how long it waits for a sign of the other side")
def test_listener_sets_tcp_user_timeout() -> None:
    with listen("127.0.0.1", 0) as listening, socket.create_connection(listening.getsockname()):
        accepted, _ = listening.accept()
        with accepted:
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == TCP_USER_TIMEOUT_MS
