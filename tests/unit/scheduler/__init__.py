"""The scheduler with a clock that stands still until it is told to go on."""
