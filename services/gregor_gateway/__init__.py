"""The gateway: holds the connections of devices, and brings them what changes (websocket.md)."""
