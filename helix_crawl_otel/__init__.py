"""Keeps dense-embedding jobs on small GPUs from crawling. See README.md.

The public names are given lazily (PEP 562), so that importing the pure core loads neither torch nor opentelemetry.
"""
