"""The state of users in Redis: commits, reads, deletion."""
