"""Tests of Gregor: unit (mirrors the tree), contract, property, e2e, bench; `support` holds what they share."""
