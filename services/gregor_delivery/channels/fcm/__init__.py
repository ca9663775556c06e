"""Push by Firebase Cloud Messaging, HTTP v1."""
