"""Encoders, vectors, the choice of device, and the question that shows that a build is good."""
