"""One test body for all twins of a contract."""
