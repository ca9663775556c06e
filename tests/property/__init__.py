"""The laws, held against generated messages."""
