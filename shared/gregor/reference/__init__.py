"""Executable specification: never runs in production. The tests compare the Redis store with it."""
