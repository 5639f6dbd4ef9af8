"""Tests of helix_crawl_otel.probes."""
