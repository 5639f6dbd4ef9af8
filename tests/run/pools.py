"""A driver whose encoders run in processes of their own: pools of every kind, each task one shard.

python -m tests.run.pools WAY OUT [PACE]

WAY is a function below; OUT a folder with a file a shard, a line a committed batch: what is there is not encoded again.
PACE is `card`: a modelled card, full and slow from a process's eighth batch on, whatever it releases, and a first shard
that is long enough for that; or `steady`.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
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


def _pool(method: str, out: str, pace: str, *, processes: int = 3, **given: Any) -> None:
    with multiprocessing.get_context(method).Pool(processes, **given) as pool:
        print(pool.map(partial(build, out, pace), SHARDS, chunksize=1), file=sys.stderr)


def _executor(method: str, out: str, pace: str, **given: Any) -> None:
    with ProcessPoolExecutor(3, mp_context=multiprocessing.get_context(method), **given) as pool:
        print(list(pool.map(partial(build, out, pace), SHARDS)), file=sys.stderr)


def _in_a_pool(out: str, pace: str, shard: str) -> list[str]:
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.map(partial(build, out, pace), [shard])


def nested(out: str, pace: str) -> None:
    """A pool in each process of an executor: the children of children."""
    with ProcessPoolExecutor(3, mp_context=multiprocessing.get_context("spawn")) as pool:
        print(list(pool.map(partial(_in_a_pool, out, pace), SHARDS)), file=sys.stderr)


def _joblib(out: str, pace: str, backend: str) -> None:
    from joblib import Parallel, delayed

    print(Parallel(n_jobs=3, backend=backend)(delayed(build)(out, pace, shard) for shard in SHARDS), file=sys.stderr)


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


class _Numbers:
    """A data set that its workers only read: they have nothing to say."""

    def __len__(self) -> int:
        return BATCHES * GENES

    def __getitem__(self, number: int) -> int:
        return number


def _readers(method: str, out: str, pace: str) -> None:
    """Workers of a DataLoader that are kept, inside of a job that encodes itself."""
    from torch.utils.data import DataLoader

    numbers: Any = _Numbers()
    options: dict[str, Any] = {"num_workers": 2, "persistent_workers": True, "multiprocessing_context": method}
    loader: Any = DataLoader(numbers, batch_size=GENES, **options)
    for shard in SHARDS:
        with CrawlWatch() as watch, watch.shard(shard, device="cpu") as held:
            for number, genes in enumerate(loader):
                with held.batch(genes=len(genes)):
                    time.sleep(HEALTHY_SECONDS)
                _commit(Path(out) / shard, number)
                held.boundary()


def rank(out: str, pace: str) -> None:
    """One process of `accelerate launch` or `torchrun`: its share of the shards."""
    import torch.distributed as ranks

    ranks.init_process_group("gloo")
    number, count = ranks.get_rank(), ranks.get_world_size()
    print([build(out, pace, shard) for shard in SHARDS[number::count]], file=sys.stderr)
    ranks.barrier()
    ranks.destroy_process_group()


def torchrun(out: str, pace: str) -> None:
    """Two processes started by `torchrun`."""
    options = ["--nproc-per-node", "2", "--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0"]
    launcher = [sys.executable, "-m", "torch.distributed.run", *options]
    sys.exit(subprocess.run([*launcher, "-m", "tests.run.pools", "rank", out, pace], check=False).returncode)


def accelerate(out: str, pace: str) -> None:
    """Two processes started by `accelerate launch`."""
    options = ["--multi_gpu", "--num_processes", "2", "--num_machines", "1", "--mixed_precision", "no"]
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


def awaited(out: str, pace: str) -> None:
    """Each shard by a program that an event loop waits for; a Python without this package beside them."""
    code = f"from tests.run.pools import build; build({out!r}, {pace!r}, {{!r}})"
    commands = [["-c", code.format(shard)] for shard in SHARDS] + [["-I", "-S", "-c", "import time; time.sleep(0.5)"]]

    async def start_all() -> list[int]:
        started = [await asyncio.create_subprocess_exec(sys.executable, *command) for command in commands]
        return [await process.wait() for process in started]

    codes = asyncio.run(start_all())
    print(codes, file=sys.stderr)


def last_killed(out: str, pace: str) -> None:
    """A pool that a process of is killed, the first time; a driver that would not see it."""
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        results = pool.map_async(partial(build, out, pace), SHARDS, chunksize=1)
        killed = Path(out) / "killed"
        while not killed.exists() and not results.ready():
            committed = [line for path in Path(out).iterdir() for line in path.read_text().splitlines()]
            if len(committed) > BATCHES:
                killed.touch()
                os.kill(int(committed[-1].split()[1]), signal.SIGTERM)  # which is TerminateProcess on Windows
            time.sleep(0.01)
        print(results.get(), file=sys.stderr)


WAYS: dict[str, Callable[[str, str], None]] = {
    **{f"{method}-pool": partial(_pool, method) for method in ("fork", "spawn", "forkserver")},
    "replaced-pool": partial(_pool, "spawn", maxtasksperchild=1),
    "replaced-executor": partial(_executor, "spawn", max_tasks_per_child=1),
    "one-process-pool": partial(_pool, "spawn", processes=1),
    **{f"{method}-executor": partial(_executor, method) for method in ("fork", "spawn", "forkserver")},
    **{f"joblib-{backend}": partial(_joblib, backend=backend) for backend in ("loky", "multiprocessing")},
    **{f"{method}-readers": partial(_readers, method) for method in ("fork", "spawn")},
    **{
        way.__name__: way
        for way in (*(nested, loader, rank, torchrun, accelerate, builders, programs, awaited, last_killed),)
    },
}

if __name__ == "__main__":
    WAYS[sys.argv[1]](*sys.argv[2:])
