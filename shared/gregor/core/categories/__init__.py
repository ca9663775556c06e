"""Notification types: parsing, policies and JSON Schemas of bodies."""
