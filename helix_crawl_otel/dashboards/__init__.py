"""Grafana boards, alert rules and provisioning files, and the command that writes them."""
