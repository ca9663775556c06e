"""Handlers of due work, one module for each kind. ``dispatch`` calls them."""
