"""Hooks for schemathesis (its SCHEMATHESIS_HOOKS): media types that it does not know."""

from typing import Any

import schemathesis


@schemathesis.serializer("application/x-ndjson")
def lines(_context: Any, value: Any) -> bytes:
    """Send an NDJSON batch unchanged: in the OpenAPI document it is a string."""
    return str(value).encode()
