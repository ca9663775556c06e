"""Data that belongs to no user. Its shard may be unreachable while the shards of users answer."""
