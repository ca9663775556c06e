"""Benchmarks, each measured beside its limit in the same run (docs/performance.md). `python -m tests.bench`."""
