"""The meaning of Gregor: pure decisions. Nothing in here knows a clock, a socket, Redis or asyncio."""
