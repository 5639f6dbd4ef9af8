"""`watch.wrap`, and what encodes through transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from helix_crawl_otel import CrawlWatch, HelixCrawlCallback
from tests.instrument.conftest import Watched
from tests.instrument.models import folder, sentence_model, texts

QUIET: dict[str, Any] = {"report_to": [], "dataloader_pin_memory": False, "disable_tqdm": True, "use_cpu": True}


def test_one_model_is_watched_alone(tmp_path: Path) -> None:
    """The others of its class are not."""
    rig = Watched(tmp_path)
    rig.instrumentor.uninstrument()
    model, other = sentence_model(), sentence_model()
    assert rig.watch.wrap(model) is model
    model.encode(texts(3), batch_size=2)
    other.encode(texts(3), batch_size=2)
    assert [genes for _, genes, _ in rig.batches()] == [2, 1]


def test_what_cannot_be_wrapped_is_named() -> None:
    """With what can."""
    with CrawlWatch(tick_seconds=None) as watch, pytest.raises(ValueError, match=r"model is dict; accepted: an inst"):
        watch.wrap({})


def pipe() -> Any:
    """A pipeline that extracts features."""
    from transformers import pipeline

    return pipeline("feature-extraction", model=str(folder()), device="cpu", batch_size=2)


def test_a_pipeline_by_step(watched: Watched) -> None:
    """A list is one call of several passes; of what is fetched one by one each pass is a call. Results are the same."""
    made = pipe()
    seen = made(texts(4)), list(made(text for text in texts(2)))
    assert [genes for _, genes, _ in watched.batches()] == [2, 2, 2]
    watched.instrumentor.uninstrument()
    assert (made(texts(4)), list(made(text for text in texts(2)))) == seen


def test_a_callback_of_a_trainer(tmp_path: Path) -> None:
    """Each step is a batch, by its rows and its tokens; a checkpoint is a boundary."""
    pytest.importorskip("accelerate", reason="the Trainer of transformers needs it")
    from transformers import AutoModelForSequenceClassification, Trainer, TrainingArguments

    rig = Watched(tmp_path)
    rig.instrumentor.uninstrument()
    rows = [{"input_ids": [2, 7 + n, 9, 3], "labels": n % 2} for n in range(6)]
    arguments = TrainingArguments(str(tmp_path), per_device_train_batch_size=2, num_train_epochs=1, **QUIET)
    model = AutoModelForSequenceClassification.from_pretrained(folder(), num_labels=2)
    callbacks: list[Any] = [HelixCrawlCallback(rig.watch)]
    trainer = Trainer(model, arguments, train_dataset=rows, callbacks=callbacks)
    trainer.train()
    assert [(genes, work) for _, genes, work in rig.batches()] == [(2, 8)] * 3
