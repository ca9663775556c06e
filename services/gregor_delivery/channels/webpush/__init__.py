"""Push to browsers by Web Push (RFC 8030, 8291, 8292)."""
