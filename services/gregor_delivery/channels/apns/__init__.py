"""Push to Apple devices by APNs over HTTP/2."""
