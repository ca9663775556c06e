"""What a command could not do, in one line that says what to do about it."""


class Failure(Exception):
    """Ends the command with exit status 1; its text is the line on stderr."""
