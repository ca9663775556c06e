"""Routes for a user's state and devices."""
