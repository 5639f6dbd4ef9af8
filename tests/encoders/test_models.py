"""A model's folder is looked at before anything loads it: nothing in it may be executed."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pytest

from helix_crawl_otel.encoders.base import ModelError
from helix_crawl_otel.encoders.models import check_folder, check_modules, folder_digest

TRANSFORMER = {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"}
POOLING = {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"}


def write(folder: Path, files: dict[str, Any]) -> Path:
    """A folder with these files, plain JSON or bytes."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    return folder


GOOD: dict[str, Any] = {
    "modules.json": [TRANSFORMER, POOLING],
    "config.json": {"model_type": "bert"},
    "1_Pooling/config.json": {"pooling_mode_mean_tokens": True},
    "model.safetensors": b"weights",
}


def test_a_saved_model_is_let_through(tmp_path: Path) -> None:
    """Safetensors, and the library's own modules."""
    check_folder(write(tmp_path, GOOD))


def test_weights_in_several_files_are_let_through(tmp_path: Path) -> None:
    """Big models are cut."""
    files = {name: content for name, content in GOOD.items() if name != "model.safetensors"}
    check_folder(
        write(tmp_path, {**files, "model.safetensors.index.json": {}, "model-00001-of-00002.safetensors": b""})
    )


def test_a_pickle_beside_safetensors_is_not_read_and_does_no_harm(tmp_path: Path) -> None:
    """Many models hold both."""
    check_folder(write(tmp_path, {**GOOD, "pytorch_model.bin": pickle.dumps("weights")}))


def changed(**files: Any) -> dict[str, Any]:
    """The good folder with other files; None takes one away."""
    names = {name.replace("__", "/").replace("_dot_", "."): content for name, content in files.items()}
    return {name: content for name, content in {**GOOD, **names}.items() if content is not None}


MODELING = {"idx": 0, "name": "0", "path": "", "type": "modeling_evil.Transformer"}

BAD = {
    "no modules": (changed(modules_dot_json=None), "no modules.json lists its modules"),
    "empty modules": (changed(modules_dot_json=[]), "no modules.json lists its modules"),
    "modules that are none": (changed(modules_dot_json=["x"]), "names a module of its own"),
    "broken modules": (changed(modules_dot_json=b"{"), "cannot be read"),
    "a module of its own": (changed(modules_dot_json=[MODELING, POOLING]), "'modeling_evil.Transformer'"),
    "a name like the library's": (
        changed(modules_dot_json=[{**TRANSFORMER, "type": "sentence_transformers_evil.X"}]),
        "names a module of its own",
    ),
    "a module elsewhere": (
        changed(modules_dot_json=[TRANSFORMER, {**POOLING, "path": "../other"}]),
        "outside of its own folder",
    ),
    "a module elsewhere, as Windows writes it": (
        changed(modules_dot_json=[TRANSFORMER, {**POOLING, "path": "..\\other"}]),
        "outside of its own folder",
    ),
    "a module on another drive": (
        changed(modules_dot_json=[TRANSFORMER, {**POOLING, "path": "D:other"}]),
        "outside of its own folder",
    ),
    "code in the configuration": (
        changed(config_dot_json={"auto_map": {"AutoModel": "modeling_evil.Evil"}}),
        "auto_map in config.json",
    ),
    "code in a router": (
        changed(router_config_dot_json={"types": {"query": "evil.Module"}, "structure": {}}),
        "'evil.Module'",
    ),
    "weights in a pickle": (
        changed(model_dot_safetensors=None, pytorch_model_dot_bin=pickle.dumps("weights")),
        "pickled weights",
    ),
    "a later module's weights in a pickle": (
        {**GOOD, "1_Pooling/pytorch_model.bin": pickle.dumps("weights")},
        "pickled weights",
    ),
    "no weights": (changed(model_dot_safetensors=None), "holds no model.safetensors"),
}


@pytest.mark.parametrize(("files", "says"), BAD.values(), ids=BAD.keys())
def test_what_could_run_code_is_refused(tmp_path: Path, files: dict[str, Any], says: str) -> None:
    """One clear sentence that names the folder and what is wrong with it."""
    with pytest.raises(ModelError) as caught:
        check_folder(write(tmp_path, files))
    assert says in str(caught.value)
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_no_folder(tmp_path: Path) -> None:
    """Says so."""
    with pytest.raises(ModelError, match="is no folder; accepted: a sentence-transformers model folder"):
        check_folder(tmp_path / "missing")


def test_the_folders_of_modules(tmp_path: Path) -> None:
    """Where to look for further weights."""
    assert list(check_modules([TRANSFORMER, POOLING], "a model")) == [".", "1_Pooling"]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("model.safetensors", b"other weights"),
        ("1_Pooling/config.json", {"pooling_mode_cls_token": True}),
        ("sentence_bert_config.json", {"max_seq_length": 64}),
        ("2_Dense/model.safetensors", b"more weights"),
        ("vocab.txt", b"words"),
    ],
)
def test_the_digest_knows_everything_that_vectors_depend_on(tmp_path: Path, name: str, content: Any) -> None:
    """The same weights pooled in another way make other vectors."""
    one, other = write(tmp_path / "one", GOOD), write(tmp_path / "other", {**GOOD, name: content})
    assert folder_digest(one) == folder_digest(write(tmp_path / "copy", GOOD))
    assert folder_digest(one) != folder_digest(other)


@pytest.mark.parametrize("name", ["README.md", "onnx/model.onnx", "onnx/config.json", ".cache/x.json"])
def test_the_digest_knows_nothing_else(tmp_path: Path, name: str) -> None:
    """A model card that is edited does not make another model."""
    one, other = write(tmp_path / "one", GOOD), write(tmp_path / "other", {**GOOD, name: {}})
    assert folder_digest(one) == folder_digest(other)
