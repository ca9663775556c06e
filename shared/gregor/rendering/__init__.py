"""Titles, texts and e-mails of items, rendered from sandboxed templates in the user's language."""
