"""Contract tests: one test body for all implementations of a contract."""
