"""Benchmarks: what architecture.md §10 promises, measured beside its limit in the same run. `python -m tests.bench`."""
