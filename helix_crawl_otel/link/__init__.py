"""The wire between a worker and its supervisor, and the worker's end of it."""
