"""Unit tests of the gateway: its pure parts, and a whole gateway over real sockets."""
