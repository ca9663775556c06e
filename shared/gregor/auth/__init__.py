"""Credentials: device tokens, VAPID keys, unsubscribe links, and the check for weak secrets."""
