"""Routes for operators: resets, service keys, tickets, webhooks, notification types."""
