"""Items of users in Redis: commits, synchronization reads, history and deletion."""
