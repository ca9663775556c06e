"""Timers, sockets, background tasks and the drain of a gateway process."""
