"""The boards as code, the alert rules on recorded jobs, and both on real servers."""
