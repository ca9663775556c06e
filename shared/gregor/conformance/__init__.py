"""Conformance of clients: vectors, and a simulated server behind a lossy network, for a client in any language.

`gregor conformance -- COMMAND` runs them over JSON lines (docs/how-to/conformance.md). It runs beside production, never
in it.
"""
