"""Promises of a shard's file: what the app wrote stays, what was committed stays, and who may write."""
