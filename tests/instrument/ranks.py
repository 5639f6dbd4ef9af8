"""A job of several ranks, as `torchrun` starts them, each with a card of its own, modelled by `tests.instrument.job`.

torchrun --nproc-per-node 2 -m tests.instrument.ranks FILE

Each encodes its share; the first rank adds a line to FILE when it has everybody's.
"""

from __future__ import annotations

import sys
from pathlib import Path

from tests.instrument import job, models

PASSES = 60


def main(file: str) -> None:
    """One rank."""
    import torch
    from torch import distributed

    torch.set_num_threads(1)
    model = models.sentence_model()  # before there are ranks: then the first one alone would save it
    distributed.init_process_group("gloo")
    rank, ranks = distributed.get_rank(), distributed.get_world_size()
    slow = job.lay_card_over(model, f"cuda:{rank}")
    vectors = model.encode(models.texts(PASSES * 2 * ranks)[rank::ranks], batch_size=2)
    gathered: list[tuple[int, int]] = [(0, 0)] * ranks
    distributed.all_gather_object(gathered, (len(vectors), len(slow)))
    if rank == 0:
        Path(file).write_text("\n".join(f"{at} {rows} {late}" for at, (rows, late) in enumerate(gathered)))
    distributed.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1])
