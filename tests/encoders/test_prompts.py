"""What a model wants to stand before a passage and before a question, and what that makes of the vectors' identity."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from helix_crawl_otel.build.resume import NotThisBuild, settle_model
from helix_crawl_otel.encoders.load import is_of, other_prompt, tokens_id
from helix_crawl_otel.encoders.models import CONFIG, Prompts, folder_digest, read_prompts
from helix_crawl_otel.shards.errors import shown_identity
from tests.encoders.models import write_model
from tests.programs import require_module

E5 = {"query": "query: ", "passage": "passage: "}


@pytest.mark.parametrize(
    ("config", "document", "query", "adds"),
    [
        (None, "", "", {}),
        ([], "", "", {}),
        ({"prompts": None}, "", "", {}),
        ({"prompts": {"query": "", "document": ""}, "default_prompt_name": None}, "", "", {}),
        ({"prompts": E5}, "passage: ", "query: ", {"prompt": "passage: "}),
        ({"prompts": {"query": "Instruct: q\nQuery:", "document": ""}}, "", "Instruct: q\nQuery:", {}),
        (
            {"prompts": {"query": "task: search result | query: ", "document": "title: none | text: "}},
            "title: none | text: ",
            "task: search result | query: ",
            {"prompt": "title: none | text: "},
        ),
        ({"prompts": {"corpus": "c: "}}, "c: ", "", {"prompt": "c: "}),
        ({"prompts": {"document": "", "passage": "p: "}}, "p: ", "", {"prompt": "p: "}),
        ({"prompts": {"document": "d: ", "passage": "p: "}}, "d: ", "", {"prompt": "d: "}),
        ({"prompts": E5, "default_prompt_name": "passage"}, "passage: ", "query: ", {}),
        ({"prompts": {"sts": "s: "}, "default_prompt_name": "sts"}, "s: ", "s: ", {}),
        ({"prompts": {"query": "q: "}, "default_prompt_name": "query"}, "", "q: ", {"prompt": ""}),
        ({"prompts": {"passage": "p: "}, "default_prompt_name": "passage"}, "p: ", "", {}),
    ],
    ids=[
        *("none", "a list", "null", "plain", "E5", "Qwen3", "EmbeddingGemma", "corpus", "empty", "two", "default"),
        *("default of both", "default of queries", "default of passages"),
    ],
)
def test_the_prompts_of_a_model(config: object, document: str, query: str, adds: dict[str, object]) -> None:
    """As the library's pages name them. The identity says the passage's, unless vectors always were by it."""
    found = read_prompts(config)
    assert (found.document, found.query) == (document, query)
    assert found.identity() == adds


def test_a_plain_model_is_who_it_was() -> None:
    """So that what was encoded before goes on."""
    assert Prompts().identity() == {}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """Written by hand; nothing is loaded."""
    require_module("safetensors", "helix-crawl-otel[models]")
    return write_model(tmp_path / "model")


def identity_of(model: Path, **more: object) -> dict[str, object]:
    """As it is kept with the vectors."""
    return {"model": model.name, "revision": folder_digest(model), "dim": 4, "normalised": True, **more}


def test_vectors_made_without_the_prompt_are_anothers(model: Path) -> None:
    """That is known without loading the model, so that no shard of a build is made otherwise than the next."""
    (model / CONFIG).write_text(json.dumps({"prompts": E5}))
    assert is_of(identity_of(model, prompt="passage: "), str(model))
    assert not is_of(identity_of(model), str(model))
    assert not is_of(identity_of(model, prompt="other: "), str(model))
    assert other_prompt(identity_of(model), str(model)) == "passage: "
    assert other_prompt(identity_of(model, prompt="passage: "), str(model)) is None
    assert other_prompt({**identity_of(model), "revision": "another"}, str(model)) is None


@pytest.mark.parametrize("asked", [True, False], ids=["named", "not named"])
def test_who_goes_on_without_the_prompt_is_told(model: Path, asked: bool) -> None:
    """Before anything is encoded, with the prompt and the ways out; `--reencode` is one, the same model is none."""
    (model / CONFIG).write_text(json.dumps({"prompts": E5}))
    before, name = [identity_of(model)], str(model)
    with pytest.raises(NotThisBuild) as caught:
        settle_model(name if asked else None, before, name, "out", reencode=False, elsewhere="another --out")
    said = str(caught.value)
    assert f"not by {name} with its prompt 'passage: ' before each passage; accepted: --reencode, " in said
    assert said.endswith("; or another --out")
    assert settle_model(name, before, name, "out", reencode=True)[0] == name


def test_vectors_of_a_plain_model_are_its_own(model: Path) -> None:
    """With and without a file that names prompts."""
    assert is_of(identity_of(model), str(model))
    (model / CONFIG).write_text(json.dumps({"prompts": {"query": "", "document": ""}, "default_prompt_name": None}))
    folder_digest.cache_clear()
    assert is_of(identity_of(model), str(model))
    assert not is_of(identity_of(model, prompt="passage: "), str(model))


@pytest.fixture
def cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[object], dict[str, object]]:
    """Downloads a model with this configuration, and says whose its vectors would be."""
    require_module("huggingface_hub", "helix-crawl-otel[models]")
    monkeypatch.setenv("SENTENCE_TRANSFORMERS_HOME", str(tmp_path / "hub"))
    commit = "0123456789abcdef0123456789abcdef01234567"

    def download(config: object) -> dict[str, object]:
        snapshot = tmp_path / "hub/models--somebody--tiny/snapshots" / commit
        snapshot.mkdir(parents=True)
        if config is not None:
            (snapshot / CONFIG).write_text(json.dumps(config))
        return {"model": "somebody/tiny", "revision": commit, "dim": 4, "normalised": True}

    return download


def test_the_same_of_a_model_that_was_downloaded(cached: Callable[[object], dict[str, object]]) -> None:
    """By what lies among the downloads; no network is asked."""
    identity = cached({"prompts": E5})
    assert not is_of(identity, "somebody/tiny")
    assert is_of({**identity, "prompt": "passage: "}, "somebody/tiny")
    assert not is_of({**identity, "prompt": "passage: "}, "somebody/other")


def test_a_model_that_is_not_downloaded_is_known_by_its_name(cached: Callable[[object], dict[str, object]]) -> None:
    """The worker that has loaded it says the rest."""
    identity = cached(None)
    assert is_of(identity, "somebody/tiny")
    assert is_of({**identity, "prompt": "passage: "}, "somebody/tiny")


def test_people_see_the_prompt() -> None:
    """Where two differ in nothing else."""
    identity = {"model": "e5", "revision": "abc", "dim": 4}
    assert shown_identity(identity) == "e5 (abc, 4 dimensions)"
    assert shown_identity({**identity, "prompt": "passage: "}) == "e5 (abc, 4 dimensions, prompt 'passage: ')"


def test_every_model_has_tokens_of_its_own(model: Path, tmp_path: Path) -> None:
    """What a text was cut by is known without loading a model."""
    (tmp_path / "other").mkdir()
    (tmp_path / "other/modules.json").write_text("[]")
    found = [tokens_id(name) for name in ("minilm", "hashing", str(model), str(tmp_path / "other"))]
    assert len(set(found)) == 4
    assert {len(name) for name in found} <= set(range(1, 17))
