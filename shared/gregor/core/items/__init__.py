"""Items as stored and announced: binary codec, digests, synchronization answers."""
