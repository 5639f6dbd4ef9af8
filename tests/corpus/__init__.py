"""Promises of the way from a tree of files to genes."""
