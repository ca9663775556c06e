"""The gateway: its pure parts, and a whole one over real sockets."""
