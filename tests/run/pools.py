"""A driver whose encoders run in processes of their own: pools of every kind, each task one shard.

python -m tests.run.pools WAY OUT [PACE]

WAY is a function below; OUT a folder with a file a shard, a line a committed batch: what is there is not encoded again.
PACE is `card`: a modelled card, full and slow from a process's eighth batch on, whatever it releases; or `steady`.
"""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

from helix_crawl_otel import CrawlWatch, MemoryReading

GIB = 1024**3
SHARDS, BATCHES, GENES = ("north", "south", "west"), 6, 16
FAST_BATCHES = 8
HEALTHY_SECONDS, SLOW_SECONDS = 0.02, 0.24
"""Of the world; the run's clock is twenty-five times as fast."""


def build(out: str, pace: str, shard: str, batches: int = BATCHES) -> str:
    """Encode what is left of a shard."""
    path, encoded = Path(out) / shard, 0

    def memory() -> MemoryReading:
        return MemoryReading(int((11.9 if encoded > FAST_BATCHES else 6.0) * GIB), 12 * GIB)

    done = len(path.read_text().splitlines()) if path.exists() else 0
    with CrawlWatch(memory=memory if pace == "card" else None) as watch, watch.shard(shard) as held:
        for number in range(done, batches):
            with held.batch(genes=GENES):
                encoded += 1
                time.sleep(SLOW_SECONDS if pace == "card" and encoded > FAST_BATCHES else HEALTHY_SECONDS)
            _commit(path, number)
            held.boundary()
    return f"{shard} {os.getpid()}"


def _commit(path: Path, number: int) -> None:
    """In one write: whoever is killed has written it, or has not."""
    with path.open("a", encoding="utf-8") as file:
        file.write(f"{number} {os.getpid()}\n")


def _pool(method: str, out: str, pace: str) -> None:
    with multiprocessing.get_context(method).Pool(3) as pool:
        print(pool.map(partial(build, out, pace), SHARDS, chunksize=1), file=sys.stderr)


def _executor(method: str, out: str, pace: str) -> None:
    with ProcessPoolExecutor(3, mp_context=multiprocessing.get_context(method)) as pool:
        print(list(pool.map(partial(build, out, pace), SHARDS)), file=sys.stderr)


def joblib(out: str, pace: str) -> None:
    """Joblib's own pool, loky."""
    from joblib import Parallel, delayed  # type: ignore[import-untyped]

    print(Parallel(n_jobs=3)(delayed(build)(out, pace, shard) for shard in SHARDS), file=sys.stderr)


class _Shards:
    """A data set of torch's: getting an item builds a shard."""

    def __init__(self, out: str, pace: str) -> None:
        self._of = out, pace

    def __len__(self) -> int:
        return len(SHARDS)

    def __getitem__(self, number: int) -> str:
        return build(*self._of, SHARDS[number])


def loader(out: str, pace: str) -> None:
    """Workers of a torch DataLoader."""
    from torch.utils.data import DataLoader

    print(list(DataLoader(_Shards(out, pace), num_workers=3, batch_size=None)), file=sys.stderr)  # type: ignore[arg-type]


def rank(out: str, pace: str) -> None:
    """One process of `accelerate launch` or `torchrun`: its share of the shards."""
    number, count = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    print([build(out, pace, shard) for shard in SHARDS[number::count]], file=sys.stderr)


def accelerate(out: str, pace: str) -> None:
    """Three processes started by `accelerate launch`."""
    options = ["--multi_gpu", "--num_processes", "3", "--num_machines", "1", "--mixed_precision", "no"]
    options += ["--dynamo_backend", "no", "--main_process_port", "0"]
    launcher = [sys.executable, "-m", "accelerate.commands.launch", *options]
    sys.exit(subprocess.run([*launcher, "-m", "tests.run.pools", "rank", out, pace], check=False).returncode)


def programs(out: str, pace: str) -> None:
    """Each shard by a Python of its own."""
    code = f"from tests.run.pools import build; build({out!r}, {pace!r}, {{!r}})"
    started = [subprocess.Popen([sys.executable, "-c", code.format(shard)]) for shard in SHARDS]
    sys.exit(max(process.wait() for process in started))


WAYS: dict[str, Callable[[str, str], None]] = {
    **{f"{method}-pool": partial(_pool, method) for method in ("fork", "spawn", "forkserver")},
    **{f"{method}-executor": partial(_executor, method) for method in ("fork", "spawn")},
    **{way.__name__: way for way in (joblib, loader, rank, accelerate, programs)},
}

if __name__ == "__main__":
    WAYS[sys.argv[1]](*sys.argv[2:])
