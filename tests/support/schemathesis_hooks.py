"""What schemathesis has to know of us beside the OpenAPI document (its SCHEMATHESIS_HOOKS)."""

from typing import Any

import schemathesis


@schemathesis.serializer("application/x-ndjson")
def lines(_context: Any, value: Any) -> bytes:
    """A batch as lines is a string to the document, and goes out as it is."""
    return str(value).encode()
