"""What a run takes over from the one before it."""

from __future__ import annotations

from pathlib import Path

import pytest

from helix_crawl_otel.config import CrawlConfig
from helix_crawl_otel.policy.model import ActionKind
from helix_crawl_otel.supervise.session import Metrics, RunOptions, Session
from tests.supervise.stage import Stage
from tests.watch.rig import make_provider


@pytest.mark.parametrize(
    ("outcome", "demoted"), [("applied", {"a"}), ("vetoed", set()), ("passed_over", set()), ("failed", set())]
)
def test_the_next_run_knows_which_shards_belong_on_the_cpu(tmp_path: Path, outcome: str, demoted: set[str]) -> None:
    """A demotion that was refused has used its rung up, and the shard stays on its card; a healthy one does as well."""
    with Stage() as stage:
        worker = stage.begin()
        worker.hello()
        worker.open("healthy")
        stage.healthy(worker, "healthy")
        worker.close("healthy", "paused")
        worker.open("a", can_take=[ActionKind.DEMOTE_CPU])
        stage.healthy(worker, "a")
        worker.acknowledge(stage.crawl(worker, "a", "DEMOTE_CPU"), outcome)
        assert stage.run.demoted == demoted
        worker.close("a", "paused")
        (tmp_path / "ladder.json").write_text(stage.saved, encoding="utf-8")
    options = RunOptions(
        config=CrawlConfig(), folder=tmp_path, encoder="", slots=[], environ={}, keeps_logs=False, is_modelled=True
    )
    provider, _ = make_provider()
    with Session(options, Metrics(provider), lambda event: None, lambda: None) as session:
        assert session.demoted == demoted
        assert session.pipeline.status("a").rung == 3
