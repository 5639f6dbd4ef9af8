"""Fault injection: what is accepted, and that each fault does what its name says."""
