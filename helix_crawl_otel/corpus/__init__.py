"""The folder of sources: which files belong to which shard, and their text in passages."""
