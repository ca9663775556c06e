"""Replay: the messages of one user, applied by seq to the reference model.

``log`` is the result, ``replay`` applies acknowledged messages, ``gaps`` explains the seqs between them.
"""
