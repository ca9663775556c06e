"""Timers, sockets, background tasks and the scheduling of writes of a gateway process."""
