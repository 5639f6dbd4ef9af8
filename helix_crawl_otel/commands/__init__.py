"""The commands of `helix-crawl`, a file each."""
