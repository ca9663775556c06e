"""Findings about this host and this interpreter."""

from __future__ import annotations

import re
import resource
import socket
import ssl
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from gregor.config.python_version import PYTHON_FIX, unpatched_python
from gregor.config.settings import Settings, variable_name

from .finding import Finding
from .providers import PROVIDER_FIELDS

SPARE_FILES: Final = 100
"""File descriptors beside the connections of clients: Redis, providers, logs."""
_SLOW_OPTIONS: Final = (
    "PYTHONDEVMODE",
    "PYTHONASYNCIODEBUG",
    "PYTHONTRACEMALLOC",
    "PYTHONMALLOC",
    "PYTHONPROFILEIMPORTTIME",
)
_HASHED: Final = re.compile(r"[0-9a-f]{8}\.[0-9]+")
"""The name of a certificate in a directory of certificates (openssl-rehash)."""


@dataclass(frozen=True, slots=True)
class Host:
    """The facts of this host that the checks need.

    Attributes:
        python: Version of the interpreter.
        open_files: Limit of open files of a process (the soft one, which counts).
        authorities: Trusted certificate authorities of the system.
        public_address: The address from which this host reaches the Internet, if that address is its own.
    """

    python: tuple[int, int, int]
    open_files: int
    authorities: int
    public_address: str | None


def this_host() -> Host:
    """Return the facts of this host. Sends no packet."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return Host(
        sys.version_info[:3],
        sys.maxsize if limit == resource.RLIM_INFINITY else limit,
        _authorities(),
        _source_address(),
    )


def host_findings(host: Host, settings: Settings, environ: Mapping[str, str]) -> list[Finding]:
    """Return the findings about the host. `gregor doctor` must run on the host, or in the container, of a service."""
    return [
        python_finding(host.python),
        python_options_finding(environ, is_optimized=not __debug__),
        files_finding(host.open_files, settings.max_connections_process),
        certificates_finding(host.authorities, settings),
    ]


def python_finding(version: tuple[int, int, int]) -> Finding:
    """Return whether the interpreter has the security fixes that a deployment needs."""
    reason = unpatched_python(version)
    return Finding("python", "warn", reason, PYTHON_FIX) if reason else Finding("python", "ok", "has the fixes")


def python_options_finding(environ: Mapping[str, str], *, is_optimized: bool) -> Finding:
    """Return whether an option of the interpreter slows it, or removes the assertions of libraries."""
    slow = [name for name in _SLOW_OPTIONS if environ.get(name)]
    if slow:
        found = f"{', '.join(slow)} makes each message slower; it is for debugging"
        return Finding("python-options", "warn", found, f"unset {' '.join(slow)}")
    if is_optimized or environ.get("PYTHONOPTIMIZE"):
        found = "-O removes assertions, also those of libraries; the tests do not run with it"
        return Finding("python-options", "warn", found, "unset PYTHONOPTIMIZE, and start Python without -O")
    return Finding("python-options", "ok", "none slows the services")


def files_finding(limit: int, connections: int) -> Finding:
    """Return whether a gateway may open the connections that MAX_CONNECTIONS_PROCESS allows."""
    needed = connections + SPARE_FILES
    if limit >= needed:
        return Finding("file-descriptors", "ok", f"{needed} of {limit} are needed for GREGOR_MAX_CONNECTIONS_PROCESS")
    found = f"a process may open {limit} files, but GREGOR_MAX_CONNECTIONS_PROCESS is {connections}"
    fix = f"raise the limit to {needed} (LimitNOFILE=, ulimits of Compose), or lower the setting"
    return Finding("file-descriptors", "warn", found, fix)


def certificates_finding(authorities: int, settings: Settings) -> Finding:
    """Return whether the certificates of providers and of the login service can be verified."""
    if authorities:
        return Finding("certificates", "ok", f"{authorities} certificate authorities are trusted")
    calls_out = [variable_name(field) for field in (*PROVIDER_FIELDS, "token_jwks") if getattr(settings, field)]
    found = "this host trusts no certificate authority: every call of a provider over TLS fails"
    used = f" ({', '.join(calls_out)})" if calls_out else ""
    return Finding("certificates", "fail" if calls_out else "warn", found + used, "install ca-certificates")


def _authorities() -> int:
    """Return the number of trusted certificate authorities."""
    loaded = len(ssl.create_default_context().get_ca_certs())
    folder = ssl.get_default_verify_paths().capath
    if loaded or folder is None:
        return loaded
    # OpenSSL reads a directory only when it verifies a certificate: some systems have no file beside it.
    with suppress(OSError):
        return sum(_HASHED.fullmatch(file.name) is not None for file in Path(folder).iterdir())
    return 0


def _source_address() -> str | None:
    """Return the address that this host has in its default route. A UDP socket connects without a packet."""
    for family, target in ((socket.AF_INET, "192.0.2.1"), (socket.AF_INET6, "2001:db8::1")):
        try:
            with socket.socket(family, socket.SOCK_DGRAM) as probe:
                probe.connect((target, 9))
                return str(probe.getsockname()[0])
        except OSError:
            continue
    return None
