"""An encoder behind HTTP. Watch this process, not the jobs that ask it: the card and its context are here.

    helix-crawl run -- python encoder_daemon.py --port 11440

A POST to /encode with {"shard": NAME, "texts": [...]} answers {"vectors": [[...], ...]}. After a recycle the same port
listens again; who asks tries again for as long as nobody does, and commits what was answered.
"""

from __future__ import annotations

import argparse
import json
import os
from array import array
from http.server import BaseHTTPRequestHandler, HTTPServer

from vector_backfill import Encoder

from helix_crawl_otel import CrawlWatch


def serve(port: int, watch: CrawlWatch, device: str) -> None:
    """Listens on loopback. One request at a time, in the main thread, where a boundary may end the process."""
    encoder = Encoder(device)
    shards = {}  # by name, open until the daemon ends

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            name, texts = str(asked["shard"]), list(map(str, asked["texts"]))
            if name not in shards:
                shards[name] = watch.shard(name, device=device).__enter__()
            with shards[name].batch(genes=len(texts), work=len(texts) * max(map(len, texts))):
                vectors = encoder.encode(texts)
            body = json.dumps({"vectors": [list(array("f", vector)) for vector in vectors]}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments: object) -> None:
            """Nothing: the watch says what is worth a line."""

    with HTTPServer(("127.0.0.1", port), Handler) as server:
        server.timeout = 1.0
        while True:
            server.handle_request()  # or a second in which nobody asks
            for shard in shards.values():
                shard.boundary()  # answered: whatever it ends, nobody waits for these vectors. A pause is heard here


def main() -> None:
    """Take the device that the supervisor names: after a demotion it is `cpu`."""
    parser = argparse.ArgumentParser(description="Encodes what it is asked to.")
    parser.add_argument("--port", type=int, default=11440, help="of loopback, 11440 unless said otherwise")
    device = os.environ.get("BGEM3_DEVICE") or "auto"
    with CrawlWatch() as watch:
        serve(parser.parse_args().port, watch, "cuda:0" if device == "auto" else device)


if __name__ == "__main__":
    main()
