"""Outgoing connections: TLS contexts and HTTP clients, with the limits that all of them share."""
