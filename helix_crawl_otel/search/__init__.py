"""Asks a folder of shards: which genes are nearest to a text, and where they stand in their sources."""
