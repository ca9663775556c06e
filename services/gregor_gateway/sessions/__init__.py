"""Authentication, presence, observers and messages of devices."""
