"""Ingest: the HTTP API. Takes messages in, answers reads, keeps devices, keys and tickets."""
