"""Rules that hold for the whole tree. Each checker is a function, shown by a bad sample that it can fail."""
