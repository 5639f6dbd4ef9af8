"""`helix-crawl doctor`: what this machine can see, and what it should set."""
