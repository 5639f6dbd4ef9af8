"""Tests of the pure core: one file a rule of the specification, properties, and the measured goals."""
