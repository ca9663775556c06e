"""Readers: what connections and reads over HTTP got, compared with the folded history."""
