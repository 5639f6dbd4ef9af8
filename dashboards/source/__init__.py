"""Makes the Grafana boards."""
