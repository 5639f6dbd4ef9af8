"""Tests of the pure policy: one file a rule of the specification, properties, and the measured goals."""
