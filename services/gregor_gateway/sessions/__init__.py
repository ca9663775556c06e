"""Authentication, presence and device messages of sessions."""
