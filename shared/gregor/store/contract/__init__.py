"""The protocols that every store implements. The memory store and the Redis store pass the same tests."""
