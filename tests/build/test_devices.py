"""Where workers encode: what `auto` takes and why, and how many there are."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from helix_crawl_otel.build import devices as device_choice
from helix_crawl_otel.build.devices import DevicePlan, NoDevice, batch_tokens, choose_devices, torch_build
from helix_crawl_otel.policy.model import MemoryReading
from helix_crawl_otel.probes.cards import CardInfo, Description
from helix_crawl_otel.probes.nvml import CUT_UP
from tests.rules.fresh import loaded_by, roots
from tests.rules.tree import ROOT
from tests.standins.nvml import Answers, build
from tests.standins.nvml import Card as NvmlCard

GIB = 1024**3


def card(number: int, size: float | None, why: str | None = None, code: int | None = None, **values: Any) -> CardInfo:
    """One of so many GiB, `None` where that is not known."""
    memory = MemoryReading(None, None) if size is None else MemoryReading(0, int(size * GIB))
    return CardInfo(number, f"cuda:{number}", f"card {number}", f"GPU-{number}", memory, None, why, code, **values)


def cards(*gib: float | None) -> Description:
    """A machine with cards of these sizes."""
    return Description(tuple(card(n, size) for n, size in enumerate(gib)), "610.43")


def without_nvml(code: int | None, words: str = "Some Error") -> Description:
    """A machine whose NVML cannot be used."""
    return Description(why=f"NVML: {words} (error {code} from nvmlInit)", code=code)


def choose(
    asked: str = "auto",
    found: Description = Description(),  # noqa: B008 - it is frozen
    workers: int | None = None,
    below: float = 12.0,
    core_count: int = 8,
    build: str | None = "CUDA 12.8",
    hashing: bool = False,
    torch_sees: int = 0,
) -> DevicePlan:
    """On a machine of 8 cores with a torch for CUDA."""
    return choose_devices(
        asked, workers, below, found, core_count, build, needs_no_card=hashing, count_torch=lambda: torch_sees
    )


def devices(plan: DevicePlan) -> list[str]:
    """Of the slots."""
    return [device for _, device in plan.slots]


@pytest.mark.parametrize(
    ("found", "expected", "why"),
    [
        (cards(), ["cpu"], "no NVIDIA card is seen"),
        (cards(12), ["cpu"], "cuda:0 has 12.0 GiB, and up to 12 GiB the CPU is the safer place for long runs"),
        (cards(8, 11.5), ["cpu"], "cuda:0 has 8.0 GiB and cuda:1 has 11.5 GiB, and up to 12 GiB"),
        (cards(16), ["cuda:0"], "cuda:0 has 16.0 GiB"),
        (cards(24, 24), ["cuda:0", "cuda:1"], "cuda:0 has 24.0 GiB and cuda:1 has 24.0 GiB"),
        (cards(8, 24), ["cuda:1"], "cuda:1 has 24.0 GiB"),
        (cards(None), ["cuda:0"], "cuda:0 is there, its memory is not known"),
    ],
)
def test_auto(found: Description, expected: list[str], why: str) -> None:
    """The CPU on cards of 12 GiB or less, one worker a card above, and a line that says why."""
    plan = choose(found=found)
    assert devices(plan) == expected
    assert why in plan.why
    assert plan.warnings == ()


def test_auto_says_how_to_have_it_otherwise() -> None:
    """Both ways out are in the line."""
    plan = choose(found=cards(12))
    assert "--device cuda takes the card, --cpu-below-gib moves the limit" in plan.why
    assert devices(choose(found=cards(12), below=8.0)) == ["cuda:0"]
    assert devices(choose("cuda", cards(12))) == ["cuda:0"]


@pytest.mark.parametrize(
    ("asked", "workers", "expected"),
    [
        ("cuda", None, ["cuda:0", "cuda:1", "cuda:2"]),
        ("cuda", 1, ["cuda:0"]),
        ("cuda", 2, ["cuda:0", "cuda:1"]),
        ("cuda", 4, ["cuda:0", "cuda:1", "cuda:2", "cuda:0"]),
        ("cuda:2", None, ["cuda:2"]),
        ("cuda:1", 2, ["cuda:1", "cuda:1"]),
        ("cpu", 3, ["cpu", "cpu", "cpu"]),
    ],
)
def test_what_is_asked_for(asked: str, workers: int | None, expected: list[str]) -> None:
    """One worker a visible card unless a number is given; every place has a name of its own."""
    plan = choose(asked, cards(12, 12, 12), workers)
    assert devices(plan) == expected
    assert len({name for name, _ in plan.slots}) == len(expected)


def test_several_workers_on_one_card_are_warned_about() -> None:
    """Two workers on a card is how one of the incidents began."""
    assert "2 workers share cuda:1: each loads a model of its own" in choose("cuda:1", cards(24, 24), 2).warnings[0]
    assert choose("cuda", cards(24, 24), 2).warnings == ()


@pytest.mark.parametrize(("workers", "threads"), [(None, 8), (1, 8), (2, 4), (3, 2), (8, 1), (20, 1)])
def test_threads_are_shared_out(workers: int | None, threads: int) -> None:
    """On the CPU, at least one each; a worker that a demotion sends there takes no more than its share either."""
    assert choose("cpu", workers=workers).threads == threads
    assert choose("cuda:0", cards(24), workers).threads == threads


@pytest.mark.parametrize(
    ("asked", "found", "says"),
    [
        (
            "cuda",
            cards(),
            "--device is 'cuda', but NVML sees no card, torch sees none; accepted: auto, cpu, or a card that is there",
        ),
        ("cuda:2", cards(24, 24), "--device is 'cuda:2', but NVML sees cuda:0, cuda:1; accepted"),
    ],
)
def test_a_card_that_is_not_there(asked: str, found: Description, says: str) -> None:
    """Is an error, never quietly the CPU."""
    with pytest.raises(NoDevice, match=says):
        choose(asked, found)


@pytest.mark.parametrize("found", [without_nvml(12), without_nvml(13), without_nvml(None), cards()])
@pytest.mark.parametrize(("asked", "expected"), [("cuda", ["cuda:0", "cuda:1"]), ("cuda:1", ["cuda:1"])])
def test_without_nvml_torch_is_asked(asked: str, expected: list[str], found: Description) -> None:
    """Where a card was asked for by name: it works, with a warning."""
    plan = choose(asked, found, torch_sees=2)
    assert devices(plan) == expected
    assert "torch sees cuda:0, cuda:1: their memory is what torch itself holds" in plan.warnings[0]


def test_torch_is_not_asked_where_nvml_knows_or_torch_cannot() -> None:
    """To ask it takes seconds. A driver that fails is no reason to believe in its cards."""
    for code in (4, 18, 999):
        with pytest.raises(NoDevice, match=f"no card can be used: NVML: Some Error .error {code} from nvmlInit"):
            choose("cuda:0", without_nvml(code), torch_sees=1)
    with pytest.raises(NoDevice, match=r"NVML sees no card .* accepted"):
        choose("cuda:0", without_nvml(12), torch_sees=1, build="")
    with pytest.raises(NoDevice, match="NVML sees cuda:0; accepted"):
        choose("cuda:1", cards(24), torch_sees=2)
    assert devices(choose("auto", without_nvml(12), torch_sees=1)) == ["cpu"]


def test_auto_says_how_to_use_a_card_of_another_maker() -> None:
    """A torch that is built for HIP was installed for one."""
    assert choose(build="HIP 6.4").why == "no NVIDIA card is seen; --device cuda takes what torch sees (HIP 6.4)"


def test_a_card_that_is_not_usable_is_not_counted() -> None:
    """Nor does its size decide anything."""
    lost = card(2, None, "NVML: GPU is lost", 15, is_usable=False)
    broken = Description((card(0, None, CUT_UP, is_usable=False), card(1, 8.0), lost))
    plan = choose(found=broken)
    assert devices(plan) == ["cpu"]
    assert plan.why.startswith("cuda:1 has 8.0 GiB, and up to 12 GiB")
    assert [warning.split(":")[1][:12] for warning in plan.warnings] == ["0 is left ou", "2 is left ou"]


@pytest.mark.parametrize("asked", ["auto", "cpu"])
def test_a_torch_without_cuda_beside_a_card_is_said_loudly(asked: str) -> None:
    """PyPI's torch for Windows is one."""
    plan = choose(asked, cards(24), build="")
    assert devices(plan) == ["cpu"]
    assert "the installed torch is built without CUDA" in plan.warnings[0]
    assert "pytorch.org" in plan.warnings[0]


def test_a_card_for_a_torch_without_cuda_is_an_error() -> None:
    """Before any worker is started."""
    with pytest.raises(
        NoDevice, match="--device is 'cuda', but a card is there, but the installed torch is built with"
    ):
        choose("cuda", cards(24), build="")
    assert devices(choose("cuda", cards(24), build=None)) == ["cuda:0"]


@pytest.mark.parametrize(
    ("device", "tokens"),
    [("cuda:0", 16_384), ("cuda:1", 32_768), ("cuda:2", 32_768), ("cuda:3", 16_384), ("cpu", 16_384)],
)
def test_a_large_card_has_larger_batches(device: str, tokens: int) -> None:
    """One that is sold as 16 GB tells of a little less; one that tells nothing may be small."""
    assert batch_tokens(device, cards(12, 15.99, 24, None)) == tokens
    assert batch_tokens(device, without_nvml(9)) == 16_384


def test_the_hashing_encoder_takes_the_cpu() -> None:
    """Whatever is asked, and nobody is bothered about torch."""
    plan = choose("cuda", cards(24), build="", hashing=True)
    assert devices(plan) == ["cpu"]
    assert plan.warnings == ()


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("__version__ = '2.13.0+cpu'\ncuda: Optional[str] = None\nhip: Optional[str] = None\n", ""),
        ("__version__ = '2.13.0'\ncuda: Optional[str] = '12.8'\n", "CUDA 12.8"),
        (
            "__version__ = '2.9.0+rocm6.4'\ncuda: Optional[str] = None\nhip: Optional[str] = '6.4.43482'\n",
            "HIP 6.4.43482",
        ),
        ("cuda = '12.1'\n", "CUDA 12.1"),
        ("from x import cuda\n", None),
        ("this is no Python\n", None),
    ],
)
def test_the_build_of_torch_is_read_as_text(
    source: str, expected: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its package is not imported: the supervisor never loads torch."""
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch/__init__.py").write_text("raise SystemExit('torch was imported')\n")
    (tmp_path / "torch/version.py").write_text(source)
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    assert torch_build() == expected


def test_no_torch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is known of it."""
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    assert torch_build() is None


def test_choosing_loads_no_torch(tmp_path: Path) -> None:
    """The supervisor holds no CUDA context."""
    module = device_choice.__name__
    loaded = loaded_by(f"from {module} import *; worker_cards({{}}); torch_build(); cores()", tmp_path)
    assert module in loaded
    assert roots(loaded) & {"torch", "numpy", "opentelemetry"} == set()


# -- through the real pynvml ------------------------------------------------------------------------------------------

_PROGRAM = """
import json, os
from helix_crawl_otel.build.devices import worker_cards
print(json.dumps([(card.device, card.memory.limit_bytes) for card in worker_cards(os.environ).usable]))
"""


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The stand-in of NVML."""
    return build(tmp_path_factory.mktemp("nvml"))


@pytest.fixture
def answers(tmp_path: Path) -> Answers:
    """Three cards: a small, a big and another small one."""
    uuid = "GPU-0000000{}-0000-0000-0000-000000000000"
    sizes = enumerate([8, 24, 12])
    found = [NvmlCard(name=f"Card of {gib}", uuid=uuid.format(n), total=gib * GIB) for n, gib in sizes]
    return Answers(tmp_path / "answers.txt", cards=found)


def seen(answers: Answers, library: Path, **variables: str) -> list[Any]:
    """What a process sees of the cards."""
    inherited: Mapping[str, str] = {name: text for name, text in os.environ.items() if not name.startswith("CUDA_")}
    environ = {**inherited, **answers.environ(library), **variables}
    command = [sys.executable, "-c", _PROGRAM]
    done = subprocess.run(command, env=environ, cwd=ROOT, capture_output=True, text=True, timeout=50, check=False)
    assert done.returncode == 0, done.stderr
    found: list[Any] = json.loads(done.stdout)
    return found


def test_every_visible_card_is_seen_with_its_size(answers: Answers, library: Path) -> None:
    """In the bus's order, though the cards differ: workers are started with it."""
    assert seen(answers, library) == [["cuda:0", 8 * GIB], ["cuda:1", 24 * GIB], ["cuda:2", 12 * GIB]]


def test_hidden_cards_are_left_out(answers: Answers, library: Path) -> None:
    """As CUDA counts what CUDA_VISIBLE_DEVICES leaves."""
    assert seen(answers, library, CUDA_VISIBLE_DEVICES="2,1") == [["cuda:0", 12 * GIB], ["cuda:1", 24 * GIB]]
    assert seen(answers, library, CUDA_VISIBLE_DEVICES="-1") == []


def test_a_card_that_says_nothing_of_its_memory_is_a_card(answers: Answers, library: Path) -> None:
    """Unified memory answers "not supported"; a card that is lost is none."""
    answers.fail(nvmlDeviceGetMemoryInfo=3, nvmlDeviceGetMemoryInfo_v2=3)
    assert seen(answers, library) == [["cuda:0", None], ["cuda:1", None], ["cuda:2", None]]
    answers.fail(nvmlDeviceGetMemoryInfo=0, nvmlDeviceGetMemoryInfo_v2=0)
    answers.change(0, lost=1)
    assert seen(answers, library) == [["cuda:1", 24 * GIB], ["cuda:2", 12 * GIB]]


def test_no_driver_is_no_card(answers: Answers, library: Path) -> None:
    """Error 9: the driver is not loaded."""
    answers.fail(nvmlInit=9, nvmlInit_v2=9, nvmlInitWithFlags=9)
    assert seen(answers, library) == []
