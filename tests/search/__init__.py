"""Searching a folder of shards."""
