"""Routes that accept messages: one, a batch, and delayed ones."""
