"""Routes without authentication: pages and probes."""
