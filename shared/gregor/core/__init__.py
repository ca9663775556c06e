"""Domain logic without I/O: messages, items, categories, notifications.

It runs in production; see ``gregor.reference``.
"""
