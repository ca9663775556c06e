"""Redis Cluster and Valkey Cluster: the same commands as of one server, sent to the primary that owns their key.

``client`` is the entry. Decisions are pure: ``slots`` (which primary owns a slot), ``routing`` (which slot a command
belongs to), ``answers`` (what to do about an error reply) and ``gates`` (the order of a slot's commands while they
cannot be sent). I/O is in ``node`` (the connection of one primary) and ``topology`` (asking for the slots).
"""
