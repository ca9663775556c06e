"""The laws of Gregor as pure functions and values: no clock, no I/O, no asyncio, no logging."""
