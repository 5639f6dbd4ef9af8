"""Models that read passages and questions differently, and models of other kinds of modules: real ones, tiny."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings

from helix_crawl_otel.corpus.cut import ChunkRule, chunks
from helix_crawl_otel.encoders.base import Encoder, ModelError
from helix_crawl_otel.encoders.load import check_model, is_of, load_encoder
from helix_crawl_otel.encoders.precision import DtypeWish
from helix_crawl_otel.encoders.tokens import TokenRoom
from helix_crawl_otel.shards.vectors import cosine, unpack
from tests.corpus.test_cut_tokens import shown, texts
from tests.encoders.models import LIMIT, save, transformer, write_model
from tests.encoders.test_sentence import SLOW_IMPORT, log_levels

__all__ = ["log_levels"]  # a fixture

pytestmark = SLOW_IMPORT

E5 = {"query": "query: ", "passage": "passage: "}


class Models:
    """Made when they are asked for, once a run."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._encoders: dict[str, Encoder] = {}

    def folder(self, name: str) -> Path:
        """Of a model, made."""
        folder = self._folder / name
        if not folder.exists():
            modules, names = getattr(self, f"_{name}")()
            save(folder, modules, **names)
        return folder

    def encoder(self, name: str) -> Encoder:
        """A model, loaded."""
        if name not in self._encoders:
            self._encoders[name] = load(self.folder(name))
        return self._encoders[name]

    def _bert(self, seed: int = 0) -> Any:
        return transformer(self._folder / f"raw{seed}", seed=seed)

    def _pooled(self, seed: int = 0) -> list[Any]:
        from sentence_transformers.models import Pooling

        return [self._bert(seed), Pooling(8)]

    def _plain(self) -> tuple[list[Any], dict[str, Any]]:
        return self._pooled(), {}

    def _prompted(self) -> tuple[list[Any], dict[str, Any]]:
        return self._pooled(), {"prompts": E5}

    def _static(self) -> Any:
        from sentence_transformers.models import StaticEmbedding

        return StaticEmbedding(self._bert().tokenizer, embedding_dim=8)

    def _router(self) -> tuple[list[Any], dict[str, Any]]:
        from sentence_transformers.models import Normalize, Router

        return [Router.for_query_document(self._pooled(1), self._pooled()), Normalize()], {}

    def _prompted_router(self) -> tuple[list[Any], dict[str, Any]]:
        return self._router()[0], {"prompts": E5}

    def _static_router(self) -> tuple[list[Any], dict[str, Any]]:
        from sentence_transformers.models import Router

        return [Router.for_query_document([self._static()], self._pooled())], {}

    def _mapped_router(self) -> tuple[list[Any], dict[str, Any]]:
        from sentence_transformers.models import Router

        routes = {"small": self._pooled(1), "large": self._pooled()}
        return [Router(routes, route_mappings={("query", None): "small", ("document", "text"): "large"})], {}

    def _nested_router(self) -> tuple[list[Any], dict[str, Any]]:
        from sentence_transformers.models import Router

        inner = Router.for_query_document(self._pooled(1), self._pooled())
        return [Router({"query": [inner], "document": [inner]})], {}

    def _unrouted(self) -> tuple[list[Any], dict[str, Any]]:
        from sentence_transformers.models import Router

        return [Router({"question": self._pooled(1), "answer": self._pooled()})], {}

    def _words(self) -> tuple[list[Any], dict[str, Any]]:
        import torch
        from sentence_transformers.models import Pooling, WordEmbeddings
        from sentence_transformers.models.tokenizer import WhitespaceTokenizer

        words = WhitespaceTokenizer(["pad", "cat", "dog"])
        torch.manual_seed(0)
        return [WordEmbeddings(words, torch.rand(3, 8), max_seq_length=5), Pooling(8)], {}

    def _bow(self) -> tuple[list[Any], dict[str, Any]]:
        from sentence_transformers.models import BoW

        return [BoW(["cat", "dog"])], {}


def load(folder: Path) -> Encoder:
    """On the CPU."""
    return load_encoder(str(folder), "cpu", threads=1)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    """All of them."""
    return Models(tmp_path_factory.mktemp("models"))


@pytest.fixture
def changed(models: Models, tmp_path: Path) -> Callable[[str], Path]:
    """A copy of a model that a test may damage."""
    return lambda name: shutil.copytree(models.folder(name), tmp_path / name)


def library_vector(folder: Path, text: str, task: str) -> bytes:
    """By the library alone, with the text as it is."""
    import numpy
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(folder), device="cpu", local_files_only=True)
    found = model.encode([text], prompt="", normalize_embeddings=True, task=task)
    return bytes(numpy.asarray(found[0], dtype="<f4").tobytes())


ALL = ["plain", "prompted", "router", "prompted_router", "static_router", "mapped_router", "nested_router", "words"]


@pytest.mark.parametrize("name", ALL)
def test_a_model_is_loaded_and_known_again(models: Models, name: str) -> None:
    """From a folder that the library has saved: checked before, and known by what is stored without being loaded."""
    folder = models.folder(name)
    check_model(str(folder))
    encoder = models.encoder(name)
    assert encoder.identity["dim"] == 8
    assert encoder.limit == encoder.identity["max_tokens"] == (5 if name == "words" else LIMIT)
    assert is_of(encoder.identity, str(folder))
    assert ("prompt" in encoder.identity) == ("prompted" in name)
    assert [len(vector) for vector in encoder.encode(["cat dog", "dog"])] == [32, 32]
    assert len(encoder.encode_query("cat")) == 32


@pytest.mark.parametrize("name", [name for name in ALL if name not in ("words", "nested_router")])
def test_vectors_are_those_of_the_library(models: Models, name: str) -> None:
    """A passage by its route and after its prompt, a question by its own."""
    document, query = ("passage: ", "query: ") if "prompted" in name else ("", "")
    encoder = models.encoder(name)
    [passage] = encoder.encode(["cat dog"])
    assert cosine(passage, library_vector(models.folder(name), document + "cat dog", "document")) > 0.999999
    question = encoder.encode_query("cat dog")
    assert cosine(question, library_vector(models.folder(name), query + "cat dog", "query")) > 0.999999
    assert (passage == question) == (name == "plain")


@pytest.mark.parametrize("name", ALL)
def test_tokens_are_counted_as_they_are_read(models: Models, name: str) -> None:
    """With the prompt and the special ones, and with those that are beyond the limit. Counting changes no vector."""
    encoder = models.encoder(name)
    before = encoder.encode(["dog " * 100, "cat dog"])
    if name == "words":
        assert encoder.token_counts(["", "cat dog", "cat " * 9, "unknown"]) == [0, 2, 9, 0]
    else:
        around = 2 + (len("passage:") if "prompted" in name else 0)
        assert encoder.token_counts(["", "cat dog", "a" * 90]) == [around, around + 6, around + 90]
    assert encoder.encode(["dog " * 100, "cat dog"]) == before
    assert encoder.work(["cat " * 100, "cat"]) == 2 * float(encoder.limit or 0)


@pytest.mark.parametrize("name", ["plain", "prompted", "router"])
@given(texts)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_token_is_dropped(models: Models, name: str, text: str) -> None:
    """Whatever is written in whatever script: each passage fits with its prompt, and nothing is lost."""
    encoder = models.encoder(name)
    passages = list(chunks([text], ChunkRule(200, name, TokenRoom(lambda: encoder))))
    assert shown("".join(passages)) == shown(text)
    for passage, count in zip(passages, encoder.token_counts(passages), strict=True):
        assert count <= LIMIT or len(passage) == 1  # some single signs are a whole phrase


def test_a_static_embedding_that_cuts_off(tmp_path: Path) -> None:
    """It has no limit by its module, and its tokenizer may have one all the same: its identity is as it was."""
    folder = write_model(tmp_path / "static")
    assert load(folder).limit is None
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    tokenizer["truncation"] = {"direction": "Right", "max_length": 3, "strategy": "LongestFirst", "stride": 0}
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    encoder = load(folder)
    assert (encoder.limit, encoder.identity["max_tokens"]) == (3, None)
    assert encoder.token_counts(["cat " * 9, "dog"]) == [9, 1]
    whole, first = encoder.encode(["cat cat cat dog dog", "cat cat cat"])
    assert whole == first
    assert list(chunks(["cat cat cat dog dog"], ChunkRule(99, "static", TokenRoom(lambda: encoder)))) == [
        "cat cat",
        "cat dog dog",
    ]


def test_a_prompt_that_leaves_no_room(models: Models, tmp_path: Path) -> None:
    """One sentence, before any text is cut."""
    folder = save(tmp_path / "long", models._pooled(), prompts={"document": "a" * 40})
    encoder = load(folder)
    with pytest.raises(ModelError, match=r"long reads 32 tokens of a text, and what it puts around each takes 42"):
        TokenRoom(lambda: encoder).prepare()


@pytest.mark.parametrize("name", ["plain", "router", "static_router"])
def test_a_half_reads_texts_and_the_rest_is_full(models: Models, name: str) -> None:
    """Also behind a router: vectors agree, and are of length 1 in float32."""
    full = models.encoder(name)
    half = load_encoder(str(models.folder(name)), "cpu", threads=1, wish=DtypeWish("float16"))
    assert (half.dtype, half.identity) == ("float16", full.identity)
    pairs = [(*full.encode(["cat 1"]), *half.encode(["cat 1"])), (full.encode_query("cat"), half.encode_query("cat"))]
    for one, other in pairs:
        assert cosine(one, other) > 0.9999
        assert sum(value * value for value in unpack(other)) == pytest.approx(1, abs=1e-6)


# -- refused -----------------------------------------------------------------------------------------------------------


def test_a_router_without_a_route_for_passages(models: Models) -> None:
    """Its routes are named."""
    says = (
        r"has no route for a query \(its routes: question, answer\); accepted: one with the routes query and document"
    )
    with pytest.raises(ModelError, match=says):
        load(models.folder("unrouted"))


def test_vectors_of_two_lengths(models: Models, tmp_path: Path) -> None:
    """They cannot be compared; passages can be encoded all the same."""
    from sentence_transformers.models import Router, StaticEmbedding

    small = StaticEmbedding(models._bert().tokenizer, embedding_dim=4)
    router = Router({"document": models._pooled(), "query": [small]})
    encoder = load(save(tmp_path / "two", [router]))
    assert len(encoder.encode(["cat"])[0]) == 32
    with pytest.raises(ModelError, match=r"makes vectors of 4 numbers of questions and of 8 of passages"):
        encoder.encode_query("cat")


def test_what_counts_words_makes_no_dense_vectors(models: Models) -> None:
    """A bag of words has no weights."""
    with pytest.raises(ModelError, match=r"counts words .* and makes no dense vectors"):
        check_model(str(models.folder("bow")))


def test_a_pickle_on_a_route(changed: Callable[[str], Path]) -> None:
    """Each module of a router is looked at, as deep as they lie."""
    for name in ("router", "nested_router"):
        model = changed(name)
        [weights] = list(model.rglob("document_0_Transformer/model.safetensors"))
        weights.rename(weights.with_name("pytorch_model.bin"))
        with pytest.raises(ModelError, match=r"document_0_Transformer holds pickled weights"):
            check_model(str(model))


@pytest.mark.parametrize(
    ("name", "file", "change", "says"),
    [
        ("router", "router_config.json", {"types": {"query_0_Transformer": "evil.Evil"}}, "names a module of its own"),
        ("router", "router_config.json", {"types": {"query_0_Transformer": "evil"}}, "names a module of its own"),
        ("router", "router_config.json", {"types": {"../x": "sentence_transformers.x"}}, "outside of its own folder"),
        ("router", "router_config.json", {"types": None}, "no router_config.json lists its modules"),
        ("router", "document_0_Transformer/config.json", {"auto_map": {"AutoModel": "evil.Evil"}}, "code of its own"),
        ("words", "0_WordEmbeddings/wordembedding_config.json", {"tokenizer_class": "evil.Evil"}, "a class of its own"),
        ("plain", "1_Pooling/config.json", {"activation_function": "os.system"}, "a class of its own"),
    ],
    ids=["a module", "a module beside", "another folder", "none", "auto_map", "a tokenizer", "a function"],
)
def test_nothing_of_a_model_runs(
    changed: Callable[[str], Path], name: str, file: str, change: dict[str, object], says: str
) -> None:
    """Whatever setting of whatever module names code."""
    model = changed(name)
    path = model / file
    if not path.exists():
        [path] = list(model.rglob(Path(file).name))
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(ModelError, match=says):
        check_model(str(model))
