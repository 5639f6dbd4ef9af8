"""Draws the pictures of the boards in the documentation."""
