"""The gateway: holds the connections of devices and delivers changes to them (websocket.md)."""
