"""Watches a job that has no line of ours: by its models' own methods, each forward pass of them."""
