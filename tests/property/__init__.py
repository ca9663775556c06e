"""The laws, tested with generated messages."""
