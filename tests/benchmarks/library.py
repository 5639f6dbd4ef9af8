"""What a user would write instead of a build: sentence-transformers alone, in a process of its own.

python -m tests.benchmarks.library WAY MODEL TEXTS VECTORS

WAY is `all`, one call of `encode` with everything, or `files`, calls with 64 texts each, in the order in which they
stand. TEXTS is a JSON list; VECTORS is where numpy keeps what comes of it. One JSON object is printed.
"""

from __future__ import annotations

import json
import sys
import time
import warnings
from pathlib import Path
from typing import Any

__all__ = ["BATCH"]

BATCH = 64


def main(way: str, folder: str, texts_file: str, vectors_file: str) -> None:
    """Load, encode, and say what it took: processor seconds of the process, seconds, bytes, padded tokens."""
    warnings.simplefilter("ignore")
    import resource

    import numpy
    import sentence_transformers

    texts = json.loads(Path(texts_file).read_text(encoding="utf-8"))
    model: Any = sentence_transformers.SentenceTransformer(folder, device="cpu", local_files_only=True)
    loaded, began = time.process_time(), time.perf_counter()
    if way == "all":
        found = model.encode(texts, normalize_embeddings=True)
    else:
        starts = range(0, len(texts), BATCH)
        batches = [texts[start : start + BATCH] for start in starts]
        found = numpy.concatenate([model.encode(one, batch_size=BATCH, normalize_embeddings=True) for one in batches])
    seconds, processor = time.perf_counter() - began, time.process_time() - loaded
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    numpy.save(vectors_file, found)
    size = 32 if way == "all" else BATCH  # the library's default, after it has sorted by letters
    order = sorted(texts, key=len, reverse=True) if way == "all" else texts
    counted = model.tokenizer(order, truncation=True, max_length=model.max_seq_length)["input_ids"]
    lengths = [len(ids) for ids in counted]
    padded = [len(lengths[n : n + size]) * max(lengths[n : n + size]) for n in range(0, len(lengths), size)]
    told = {"start": loaded, "processor": processor, "seconds": seconds, "peak": peak * 1024, "padded": padded}
    print(json.dumps({**told, "tokens": sum(lengths)}))


if __name__ == "__main__":
    main(*sys.argv[1:])
