"""Routes for deliveries, dead letters, suppressed addresses and contact data."""
