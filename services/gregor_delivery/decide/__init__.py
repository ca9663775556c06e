"""Decisions just before sending: push, e-mail, webhook or withdrawal, or why not."""
