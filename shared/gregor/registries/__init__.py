"""Versioned data that every process caches: notification types and webhooks."""
