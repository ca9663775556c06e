"""Notifications: who gets a push or an e-mail, when, and what becomes of each delivery."""
