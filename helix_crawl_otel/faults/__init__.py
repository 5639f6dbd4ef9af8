"""Faults that tests and demonstrations put into an encoder."""
