"""The wire between a worker and its supervisor."""
