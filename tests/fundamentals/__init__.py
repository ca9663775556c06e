"""The product in about twenty tests: one behaviour each, with real clients against `gregor dev`. Read these first."""
