"""Promises of `helix-crawl report`."""
