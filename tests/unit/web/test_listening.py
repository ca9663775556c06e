"""The ports of a service: errors name the setting to change."""

import re
import socket
from typing import Any

import pytest

from gregor.config.settings import Settings
from gregor.web.serving import listen_all
from tests.support.ports import free_port, free_ports


def error_of(**settings: Any) -> str:
    with pytest.raises(OSError, match="GREGOR_") as caught:
        listen_all(Settings(**settings), "ingest_port")
    return str(caught.value.strerror)  # the line that the process exits with


def test_ports_are_opened_in_order() -> None:
    ports = [free_ports(2), free_port()]
    settings = Settings(gateway_port=ports[0], stream_port=ports[0] + 1, admin_port=ports[1])

    sockets = listen_all(settings, "gateway_port", "stream_port")

    assert [each.getsockname()[1] for each in sockets] == [ports[0], ports[0] + 1, ports[1]]
    for each in sockets:
        each.close()


def test_port_in_use_names_its_setting() -> None:
    with socket.create_server(("127.0.0.1", 0)) as holder:
        taken = holder.getsockname()[1]

        text = f"cannot listen on 127.0.0.1:{taken}: Address already in use; each process on a host needs its own "
        assert error_of(ingest_port=taken) == text + "GREGOR_INGEST_PORT"
        assert error_of(ingest_port=free_port(), admin_port=taken) == text + "GREGOR_ADMIN_PORT"


def test_unknown_name_names_its_setting() -> None:
    port = free_port()
    text = "the name nohost.invalid cannot be resolved; check "

    assert (
        error_of(host="nohost.invalid", ingest_port=port)
        == f"cannot listen on nohost.invalid:{port}: {text}GREGOR_HOST"
    )
    assert error_of(ingest_port=port, admin_port=port, admin_host="nohost.invalid").endswith(text + "GREGOR_ADMIN_HOST")


def test_address_of_another_host_names_the_host() -> None:
    assert re.search("assign requested address; check GREGOR_HOST$", error_of(host="192.0.2.1"))


def test_equal_ports_are_refused() -> None:
    port = free_port()

    expected = f"GREGOR_INGEST_PORT and GREGOR_ADMIN_PORT are both {port}: choose two ports"
    assert error_of(ingest_port=port, admin_port=port) == expected
