"""`python -m helix_crawl_otel`: the same as `helix-crawl`."""

import sys

from helix_crawl_otel.cli import main

if __name__ == "__main__":
    sys.exit(main())
