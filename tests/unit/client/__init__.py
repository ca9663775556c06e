"""Tests of `gregor.client`."""
