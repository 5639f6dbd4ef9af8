"""Encoders: what turns passages into vectors. Loaded in workers only."""
