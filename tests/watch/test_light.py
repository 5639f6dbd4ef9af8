"""What watching loads: no torch, no pynvml before a card is read, and next to nothing at `import helix_crawl_otel`."""

from __future__ import annotations

from pathlib import Path

from tests.otel.fresh import run_fresh
from tests.rules.fresh import loaded_by, roots


def test_the_package_itself_is_light(tmp_path: Path) -> None:
    """The public names are given when they are asked for."""
    loaded = loaded_by("import helix_crawl_otel; dir(helix_crawl_otel)", tmp_path)
    assert {name for name in loaded if name.startswith("helix_crawl_otel")} == {"helix_crawl_otel"}
    assert roots(loaded) & {"opentelemetry", "prometheus_client", "torch", "pynvml", "numpy", "json"} == set()


def test_watching_a_whole_ladder_loads_no_torch(tmp_path: Path) -> None:
    """Not even the release and the demotion do: a context would take the memory that they are to free."""
    program = """
from helix_crawl_otel import *
from tests.watch.rig import Rig
rig = Rig()
with rig.watch.shard("a", on_demote=lambda: None) as shard:
    rig.healthy(shard).crawl(shard, 10)
    assert shard.device == "cpu"
rig.watch.close()
"""
    assert roots(loaded_by(program, tmp_path)) & {"torch", "pynvml", "sentence_transformers", "numpy"} == set()


def test_every_public_name_is_there() -> None:
    """And an unknown one says so."""
    out = run_fresh(
        """
        import helix_crawl_otel
        for name in helix_crawl_otel.__all__:
            assert getattr(helix_crawl_otel, name) is not None, name
        assert set(helix_crawl_otel.__all__) <= set(dir(helix_crawl_otel))
        try:
            helix_crawl_otel.CrawlWach
        except AttributeError as error:
            print(error)
        """
    )
    assert out == "module 'helix_crawl_otel' has no attribute 'CrawlWach'\n"
