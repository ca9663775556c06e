"""The gateway: holds the connections of devices, and brings them what changes (protocol.md, "Gateway")."""
