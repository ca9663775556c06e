"""WebSocket, server-sent events and long polling, and the admin port."""
