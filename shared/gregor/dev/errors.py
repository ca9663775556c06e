"""Failures of `gregor dev`, each in one line that says how to fix it."""


class DevError(RuntimeError):
    """`gregor dev` cannot start or go on. The command line prints the text and exits with status 1."""
