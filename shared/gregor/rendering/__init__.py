"""Titles, texts and e-mail bodies of items, rendered from sandboxed templates in the user's language."""
