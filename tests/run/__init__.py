"""`helix-crawl run`: drivers of a user's own, supervised."""
