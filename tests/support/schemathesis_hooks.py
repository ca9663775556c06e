"""Hooks for schemathesis (its SCHEMATHESIS_HOOKS): unknown media types, and the user of a device token."""

import os
from typing import Any

import schemathesis

OWN = {"uid": os.environ.get("SCHEMATHESIS_UID"), "device": os.environ.get("SCHEMATHESIS_DEVICE")}
"""Path parameters that most requests of a device token have: with others it gets only 403."""


@schemathesis.serializer("application/x-ndjson")
def lines(_context: Any, value: Any) -> bytes:
    """Send an NDJSON batch unchanged: in the OpenAPI document it is a string."""
    return str(value).encode()


@schemathesis.hook
def map_path_parameters(_context: Any, path_parameters: Any) -> Any:
    """Replace the user and the device, if the tests name them."""
    if not isinstance(path_parameters, dict):
        return path_parameters
    return {name: OWN.get(name) or value for name, value in path_parameters.items()}
