"""Readers: the frames of connections and the answers of HTTP reads, compared with the model."""
