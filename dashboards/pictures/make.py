"""Draws the boards as they look in Grafana, from a real run that goes down the ladder. Outside the gate.

    python -m dashboards.pictures.make

Needs node, npm, chromium and prometheus on PATH, and about twelve minutes: a build on the modelled card with a spill,
scraped by a real Prometheus that has the rules; then Grafana's published packages draw the committed boards as they
looked during the last crawl. Which parts are Grafana's and which are ours stands at the top of `board.jsx`.
"""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image

__all__ = ["draw", "main", "needed"]

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
WIDTHS = {1600: "", 900: "-900"}
SCRAPE_SECONDS = 2
CARD = "card:fragment_gib=1.0,spill_cost=12,spill_power=0.1,cpu_tokens_per_second=6000"
BUILD = (
    *("--model", "hashing", "--batch-size", "8", "--release-every", "0", "--window", "4"),
    *("--fault", CARD, "--fault", "clock:rate=8", "--fault", "slow:seconds=0.2"),
)
"""Its clock is fast: what takes minutes on a card takes seconds here."""


def needed(name: str) -> str:
    """Path of a program.

    Raises:
        SystemExit: It is not there.
    """
    path = shutil.which(name)
    if path is None:
        raise SystemExit(f"{name} is not on PATH; it is needed to draw the boards")
    return path


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def _write_tree(root: Path, shards: int, files: int) -> None:
    words = ["gene", "shard", "batch", "vector", "ladder", "worker", "memory", "signal", "driver", "policy", "record"]
    for shard in range(shards):
        for number in range(files):
            path = root / f"shard-{shard}" / f"{number}.md"
            path.parent.mkdir(parents=True, exist_ok=True)
            lines = [" ".join(words[(number * 7 + n * 3 + k * k) % len(words)] for k in range(45)) for n in range(160)]
            path.write_text(f"Of {shard} and {number}.\n\n" + "\n\n".join(lines), encoding="utf-8")


@contextmanager
def _prometheus(folder: Path, job: int) -> Iterator[str]:
    """A Prometheus that scrapes a job every two seconds, and has the rules. Yields its address."""
    port = _free_port()
    rules = (ROOT / "dashboards" / "prometheus" / "rules").as_posix()
    config = {
        "global": {"scrape_interval": f"{SCRAPE_SECONDS}s", "evaluation_interval": f"{SCRAPE_SECONDS}s"},
        "rule_files": [f"{rules}/*.yml"],
        "scrape_configs": [{"job_name": "helix-crawl", "static_configs": [{"targets": [f"127.0.0.1:{job}"]}]}],
    }
    path = folder / "prometheus.yml"
    path.write_text(json.dumps(config), encoding="utf-8")  # JSON is YAML
    command = [
        needed("prometheus"),
        f"--config.file={path}",
        f"--storage.tsdb.path={folder / 'tsdb'}",
        f"--web.listen-address=127.0.0.1:{port}",
    ]
    with (folder / "prometheus.log").open("wb") as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
        try:
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()


def _ask(prometheus: str, expr: str) -> float:
    query = urllib.parse.urlencode({"query": expr})
    with urllib.request.urlopen(f"{prometheus}/api/v1/query?{query}", timeout=60) as answer:
        return float(json.load(answer)["data"]["result"][0]["value"][1])


def _shrink(picture: Path) -> None:
    """256 colours are enough for a board, and take a third of the space."""
    with Image.open(picture) as drawn:
        small = drawn.convert("RGB").quantize(256, dither=Image.Dither.NONE)
    small.save(picture, optimize=True)


def draw(prometheus: str, folder: Path) -> None:
    """Draw both boards in both widths, as they looked while a crawl went on, the cache emptied.

    A Prometheus has seen it within the hour.

    Args:
        prometheus: Its address.
        folder: Where the pictures go.
    """
    began = _ask(prometheus, "min(min_over_time(timestamp(helix_dense_run_info)[1h:1s]))")
    crawls = "(helix_dense_crawl_active == 1) and on (instance, shard) (helix_dense_ladder_rung == 1)"
    crawled = _ask(prometheus, f"max(max_over_time(timestamp({crawls})[1h:1s]))")
    boards = sorted((ROOT / "dashboards" / "grafana" / "boards").glob("*.json"))
    pictures = [
        {"board": str(path), "file": str(folder / f"board-{path.stem.split('-')[-1]}{suffix}.png"), "width": width}
        for path in boards
        for width, suffix in WIDTHS.items()
    ]
    request = {
        "prometheus": prometheus,
        "chromium": needed("chromium"),
        "from": began - 5,
        "to": crawled,
        "page": {
            "theme": "dark",
            "scrapeSeconds": SCRAPE_SECONDS,
            "variables": {"job": ".+", "instance": ".+", "device": ".*", "shard": ".*"},
        },
        "pictures": pictures,
    }
    if not (HERE / "node_modules").is_dir():
        install = [needed("npm"), "install", "--no-package-lock", "--no-audit", "--no-fund", "--ignore-scripts"]
        subprocess.run([*install, "--legacy-peer-deps"], cwd=HERE, check=True)
    with tempfile.TemporaryDirectory() as given:
        path = Path(given) / "request.json"
        path.write_text(json.dumps(request), encoding="utf-8")
        subprocess.run([needed("node"), str(HERE / "draw.mjs"), str(path)], cwd=HERE, check=True)
    for picture in pictures:
        _shrink(Path(str(picture["file"])))


def main() -> None:
    """The whole of it."""
    for name in ("node", "npm", "chromium", "prometheus"):
        needed(name)
    with tempfile.TemporaryDirectory() as given:
        folder = Path(given)
        _write_tree(folder / "notes", 3, 40)
        port = _free_port()
        build = [sys.executable, "-m", "helix_crawl_otel", "build", str(folder / "notes"), "--out", str(folder / "out")]
        with _prometheus(folder, port) as prometheus:
            subprocess.run([*build, *BUILD, "--metrics-port", str(port)], check=True)
            time.sleep(3 * SCRAPE_SECONDS)
            draw(prometheus, ROOT / "docs" / "pictures")


if __name__ == "__main__":
    main()
