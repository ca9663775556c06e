"""History checker: a recorder of what clients saw, and a checker that compares it with the laws (semantics.md).

``recorder`` writes a file (docs/reference/history-format.md), ``checker`` reads it. It needs no server.
"""
