"""A driver whose encoders run in processes of their own: pools of every kind, each task one shard.

python -m tests.run.pools WAY OUT [PACE]

WAY is a function below; OUT a folder with a file a shard, a line a committed batch: what is there is not encoded again.
PACE is `card`: a modelled card, full and slow from a process's eighth batch on, whatever it releases, and a first shard
that is long enough for that; or `steady`.
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
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

from helix_crawl_otel import CrawlWatch, MemoryReading
from helix_crawl_otel.exit_codes import DEMOTED

GIB = 1024**3
SHARDS, BATCHES, GENES = ("north", "south", "west"), 6, 16
LONG = 30
"""Batches of a shard in which a RECYCLE is asked for."""
BUILT, KILLS = tuple(f"{wind} {number}" for wind in SHARDS for number in range(8)), 20
"""Shards of the three builders, and how often one of these is killed."""
FAST_BATCHES = 8
HEALTHY_SECONDS, SLOW_SECONDS = 0.02, 0.24
"""Of the world; the run's clock is twenty-five times as fast."""


def build(out: str, pace: str, shard: str, batches: int = BATCHES, *, restarts: bool | None = None) -> str:
    """Encode what is left of a shard."""
    batches = LONG if pace == "card" and shard == SHARDS[0] else batches
    device = os.environ.get("BGEM3_DEVICE", "cuda:0")
    path, encoded = Path(out) / shard, 0

    def memory() -> MemoryReading:
        return MemoryReading(int((11.9 if encoded > FAST_BATCHES else 6.0) * GIB), 12 * GIB)

    done = len(path.read_text().splitlines()) if path.exists() else 0
    with (
        CrawlWatch(memory=memory if pace == "card" and device != "cpu" else None) as watch,
        watch.shard(shard, device=device, exit_to_recycle=restarts) as held,
    ):
        for number in range(done, batches):
            with held.batch(genes=GENES):
                encoded += 1
                slow = pace == "card" and encoded > FAST_BATCHES and device != "cpu"
                time.sleep(SLOW_SECONDS if slow else HEALTHY_SECONDS)
            _commit(path, number)
            held.boundary()
    return f"{shard} {os.getpid()}"


def _commit(path: Path, number: int) -> None:
    """In one write: whoever is killed has written it, or has not."""
    with path.open("a", encoding="utf-8") as file:
        file.write(f"{number} {os.getpid()}\n")


def _pool(method: str, out: str, pace: str, *, processes: int = 3) -> None:
    with multiprocessing.get_context(method).Pool(processes) as pool:
        print(pool.map(partial(build, out, pace), SHARDS, chunksize=1), file=sys.stderr)


def _executor(method: str, out: str, pace: str) -> None:
    with ProcessPoolExecutor(3, mp_context=multiprocessing.get_context(method)) as pool:
        print(list(pool.map(partial(build, out, pace), SHARDS)), file=sys.stderr)


def joblib(out: str, pace: str) -> None:
    """Joblib's own pool, loky."""
    from joblib import Parallel, delayed

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

    shards: Any = _Shards(out, pace)  # it has what a data set needs
    print(list(DataLoader(shards, num_workers=3, batch_size=None)), file=sys.stderr)


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


def builders(out: str, pace: str) -> None:
    """A pool of the job's own: three builders, each with its shards, started again when they end before these do.

    One that is killed is started as it was, one that asks for the CPU there. Some are killed, at any moment.
    """
    context = multiprocessing.get_context("spawn")
    waiting, running, kills = list(BUILT), dict[Any, str](), 0
    last_kill = time.monotonic()
    while waiting or running:
        while waiting and len(running) < len(SHARDS):
            first = waiting.pop(0)
            running[_started(context, out, pace, first)] = first
        wait([process.sentinel for process in running], 0.1)
        for process, shard in list(running.items()):
            if process.exitcode is not None:
                del running[process]
                if process.exitcode:
                    os.environ.pop("BGEM3_DEVICE", None)
                    if process.exitcode == DEMOTED:
                        os.environ["BGEM3_DEVICE"] = "cpu"
                    running[_started(context, out, pace, shard)] = shard
                    os.environ.pop("BGEM3_DEVICE", None)
        if kills < KILLS and time.monotonic() - last_kill > 1.5 and running:
            kills, last_kill = kills + 1, time.monotonic()
            next(iter(running)).kill()
    print(f"killed {kills}", file=sys.stderr)


def _started(context: Any, out: str, pace: str, shard: str) -> Any:
    process = context.Process(target=build, args=(out, pace, shard, 2 * LONG), kwargs={"restarts": True})
    process.start()
    return process


def programs(out: str, pace: str) -> None:
    """Each shard by a Python of its own."""
    code = f"from tests.run.pools import build; build({out!r}, {pace!r}, {{!r}})"
    started = [subprocess.Popen([sys.executable, "-c", code.format(shard)]) for shard in SHARDS]
    sys.exit(max(process.wait() for process in started))


WAYS: dict[str, Callable[[str, str], None]] = {
    **{f"{method}-pool": partial(_pool, method) for method in ("fork", "spawn", "forkserver")},
    "one-process-pool": partial(_pool, "spawn", processes=1),
    **{f"{method}-executor": partial(_executor, method) for method in ("fork", "spawn")},
    **{way.__name__: way for way in (joblib, loader, rank, accelerate, builders, programs)},
}

if __name__ == "__main__":
    WAYS[sys.argv[1]](*sys.argv[2:])
