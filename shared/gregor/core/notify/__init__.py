"""Notifications: which users and devices get a push or an e-mail, when, and the outcome of each delivery."""
