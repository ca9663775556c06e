"""Fan-out of announcements from user channels to connections."""
