"""A card whose NVML fails is never quietly "no card": what a build says of it, and when torch's word is taken instead.

The real `pynvml` on the stand-in. A torch that sees cards is a stand-in as well.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.build.rig import SECONDS, Rig
from tests.rules.tree import ROOT
from tests.standins import torch as torch_standin
from tests.standins.nvml import GIB, Answers, Card, build, library_in

INIT, HANDLE, MEMORY = "nvmlInitWithFlags", "nvmlDeviceGetHandleByIndex_v2", "nvmlDeviceGetMemoryInfo_v2"

_PROGRAM = """
import json, os, sys
from helix_crawl_otel.build.devices import NoDevice, choose_devices, worker_cards
found, said = worker_cards(os.environ), {}
for asked in sys.argv[1:]:
    try:
        plan = choose_devices(asked, None, 12.0, found, 8, "CUDA 12.8")
        said[asked] = [[device for _, device in plan.slots], plan.why, plan.warnings]
    except NoDevice as error:
        said[asked] = str(error)
print(json.dumps(said))
"""


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The stand-in of NVML."""
    return build(tmp_path_factory.mktemp("nvml"))


@pytest.fixture
def answers(tmp_path: Path) -> Answers:
    """Two cards of 24 GiB."""
    return Answers(tmp_path / "answers.txt", [Card(uuid=f"GPU-{n}", total=24 * GIB) for n in range(2)])


def chosen(answers: Answers, library: Path, *asked: str, **variables: str) -> dict[str, Any]:
    """What is chosen, with a torch for CUDA that sees nothing."""
    inherited = {name: text for name, text in os.environ.items() if not name.startswith("CUDA_")}
    environ = {**inherited, **answers.environ(library), **variables}
    command = [sys.executable, "-c", _PROGRAM, *asked]
    done = subprocess.run(command, env=environ, cwd=ROOT, capture_output=True, text=True, timeout=50, check=False)
    assert done.returncode == 0, done.stderr
    said: dict[str, Any] = json.loads(done.stdout)
    return said


@pytest.mark.parametrize(
    ("function", "error", "sentence", "way_out"),
    [
        (INIT, 18, "NVML: RM has detected an NVML/RM version mismatch (error 18 from nvmlInit)", "restart the machine"),
        (INIT, 4, "NVML: Insufficient Permissions (error 4 from nvmlInit)", "give it the right"),
        (INIT, 9, "NVML: Driver Not Loaded (error 9 from nvmlInit)", "load the driver"),
        (INIT, 17, "NVML: The operating system has blocked the request (error 17 from nvmlInit)", "wsl --update"),
        (INIT, 999, "NVML: Unknown Error (error 999 from nvmlInit)", "install the driver anew"),
        ("nvmlDeviceGetCount_v2", 999, "NVML: Unknown Error (error 999 from nvmlDeviceGetCount)", "restart"),
        (HANDLE, 15, "NVML: GPU is lost (error 15 from nvmlDeviceGetHandleByIndex)", "restart the machine"),
        (MEMORY, 15, "NVML: GPU is lost (error 15 from nvmlDeviceGetMemoryInfo)", "restart the machine"),
        (MEMORY, 16, "NVML: GPU requires restart (error 16 from nvmlDeviceGetMemoryInfo)", "restart the machine"),
    ],
)
def test_a_card_that_fails(
    answers: Answers, library: Path, function: str, error: int, sentence: str, way_out: str
) -> None:
    """`auto` takes the CPU and warns with NVML's own sentence and a way out; who asks for a card is refused with it."""
    answers.fail(**{function: error})
    said = chosen(answers, library, "auto", "cuda", "cuda:1", "cpu")
    devices, why, warnings = said["auto"]
    assert (devices, why) == (["cpu"], "no card can be used")
    assert sentence in warnings[0]
    assert way_out in warnings[0]
    for asked in ("cuda", "cuda:1"):
        assert said[asked].startswith(f"--device is '{asked}', but ")
        assert f"{sentence}: " in said[asked]
        assert "accepted: auto, cpu" in said[asked]
    assert said["cpu"][2] == [], "nobody has asked for a card"


def test_one_lost_card_of_two(answers: Answers, library: Path) -> None:
    """The other one is used, under its own number, and the lost one is told of where it is meant."""
    answers.change(0, lost=1)
    said = chosen(answers, library, "auto", "cuda", "cuda:0", "cuda:1")
    for asked in ("auto", "cuda"):
        assert said[asked][0] == ["cuda:1"]
        assert said[asked][2][0].startswith("cuda:0 is left out: NVML: GPU is lost (error 15 ")
    assert said["cuda:0"].startswith("--device is 'cuda:0', but cuda:0 is left out: NVML: GPU is lost")
    assert said["cuda:1"] == [["cuda:1"], "cuda:1 was asked for", []]


def test_cards_of_somebody_else_are_not_counted(answers: Answers, library: Path) -> None:
    """A cluster gives a job some of a machine's cards: NVML lists the others too, and CUDA numbers what it may open."""
    answers.change(0, forbidden=1)
    assert chosen(answers, library, "auto")["auto"] == [["cuda:0"], "cuda:0 has 24.0 GiB", []]
    assert chosen(answers, library, "auto", CUDA_VISIBLE_DEVICES="0")["auto"][0] == ["cuda:0"]
    answers.change(1, forbidden=1)
    said = chosen(answers, library, "auto", "cuda")
    sentence = "no card can be used: NVML: Insufficient Permissions (error 4 from nvmlDeviceGetHandleByIndex): "
    assert said["auto"][2][0].startswith(sentence)
    assert said["cuda"].startswith(f"--device is 'cuda', but {sentence}")


def test_a_cut_up_card_does_not_hide_the_next(answers: Answers, library: Path) -> None:
    """MIG on card 0: card 1 is used, and a line says how to use an instance of the first."""
    answers.change(0, mig=1)
    said = chosen(answers, library, "auto", "cuda:0", "cuda:1")
    assert said["auto"][:2] == [["cuda:1"], "cuda:1 has 24.0 GiB"]
    assert "cuda:0 is left out: the card is cut up (MIG): name one of its instances by its UUID" in said["auto"][2][0]
    assert "cut up (MIG)" in said["cuda:0"]
    assert said["cuda:1"][0] == ["cuda:1"]


def test_an_instance_that_is_named(answers: Answers, library: Path) -> None:
    """It is used like a card; a name that no instance has is told of."""
    answers.change(0, mig=1)
    answers.instances = [Card(uuid="MIG-4f6c", total=20 * GIB)]
    answers.write()
    named = chosen(answers, library, "auto", CUDA_VISIBLE_DEVICES="MIG-4f6c")
    assert named["auto"] == [["cuda:0"], "cuda:0 has 20.0 GiB", []]
    wrong = chosen(answers, library, "auto", CUDA_VISIBLE_DEVICES="MIG-9")["auto"]
    assert wrong[0] == ["cpu"]
    assert wrong[2][0].startswith("cuda:0 is left out: NVML: Not Found (error 6 from nvmlDeviceGetHandleByUUID)")


@pytest.mark.parametrize("value", ["", "-1"])
def test_cards_that_are_hidden_on_purpose(answers: Answers, library: Path, value: str) -> None:
    """No warning: it was asked for; but the reason says what hides them."""
    said = chosen(answers, library, "auto", "cuda", CUDA_VISIBLE_DEVICES=value)
    assert said["auto"] == [["cpu"], f"CUDA_VISIBLE_DEVICES={value!r} leaves no card", []]
    assert said["cuda"].startswith(f"--device is 'cuda', but CUDA_VISIBLE_DEVICES={value!r} leaves no card; accepted")


@pytest.mark.parametrize("value", ["7", "GPU-9", "GPU-0,GPU-0", "cuda:0"])
def test_cards_that_are_hidden_by_a_wrong_name(answers: Answers, library: Path, value: str) -> None:
    """Somebody wanted a card and gets none: that is told, with the variable."""
    said = chosen(answers, library, "auto", "cuda", CUDA_VISIBLE_DEVICES=value)
    sentence = f"no card can be used: CUDA_VISIBLE_DEVICES={value!r} leaves no card of the 2 that NVML lists"
    assert said["auto"][2][0].startswith(sentence)
    assert said["cuda"].startswith(f"--device is 'cuda', but {sentence}")


def test_a_memory_that_cannot_be_read(answers: Answers, library: Path) -> None:
    """The card is used, and it is said what is not known; unified memory is no trouble."""
    answers.fail(**{MEMORY: 4})
    auto = chosen(answers, library, "auto")["auto"]
    assert auto[0] == ["cuda:0", "cuda:1"]
    assert auto[2][0].startswith(
        "of the memory of cuda:0 only what torch itself holds is known: NVML: Insufficient Permissions (error 4 "
    )
    answers.fail(**{MEMORY: 3, "nvmlDeviceGetMemoryInfo": 3})
    assert chosen(answers, library, "auto")["auto"][2] == []


def test_a_library_that_is_not_there_is_no_card(answers: Answers, library: Path, tmp_path: Path) -> None:
    """A machine without a driver: nothing to warn of."""
    (tmp_path / "none").mkdir()
    said = chosen(answers, library_in(tmp_path / "none"), "auto", "cuda")
    assert said["auto"] == [["cpu"], "no NVIDIA card is seen", []]
    nothing = "NVML sees no card (NVML: NVML Shared Library Not Found (error 12 from nvmlInit))"
    assert said["cuda"].startswith(f"--device is 'cuda', but {nothing}, torch sees none; accepted: auto, cpu")


def test_a_library_that_cannot_be_loaded_is_told_of(answers: Answers, library: Path, tmp_path: Path) -> None:
    """The binding says "not found" of it as well; the system's loader says what is wrong with it."""
    broken = library_in(tmp_path / "broken")
    broken.parent.mkdir(parents=True)
    broken.write_bytes(b"")
    warnings = chosen(answers, broken, "auto")["auto"][2]
    assert warnings[0].startswith("no card can be used: NVML: NVML Shared Library Not Found (error 12 from nvmlInit), ")
    assert "although it is there: " in warnings[0]


def test_a_library_without_a_function(answers: Answers, library: Path) -> None:
    """One that is older or newer than all that the binding knows."""
    answers.fail(**{INIT: 13})
    warnings = chosen(answers, library, "auto")["auto"][2]
    assert warnings[0].startswith("no card can be used: NVML: Function Not Found (error 13 from nvmlInit): ")


# -- torch's word -----------------------------------------------------------------------------------------------------


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    """A tree of three genes, built with MiniLM."""
    rig = Rig(tmp_path, options=("--model", "minilm", "--no-metrics"))
    return rig.write({f"a/{n}.txt": f"Text number {n}." for n in range(3)})


def with_torch(rig: Rig, **sees: Any) -> dict[str, str]:
    """Variables of a process that finds a torch which sees so many cards, and no NVML."""
    (rig.folder / "none").mkdir()
    folder = torch_standin.write(rig.folder / "torch", **sees)
    answers = Answers(rig.folder / "answers.txt")
    python_path = os.pathsep.join((str(folder), rig.environ["PYTHONPATH"]))
    return {**answers.environ(library_in(rig.folder / "none")), "PYTHONPATH": python_path}


@pytest.mark.skipif(sys.platform == "darwin", reason="NVML is not looked for on macOS")
def test_a_card_that_torch_alone_sees_is_used_when_it_is_asked_for(rig: Rig) -> None:
    """A card of AMD's, a Jetson, a container without NVML: it works, and it is said whose word its memory is."""
    command = rig.build_command("--device", "cuda:0", "--dtype", "float32")
    done = rig.run(command, SECONDS, **with_torch(rig, count=1, hip="6.4"))
    assert done.code == 0, done.errors
    notes = [event["text"] for event in done.of("note")]
    assert any(", torch sees cuda:0: their memory is what torch itself holds" in note for note in notes), notes
    assert {event["device"] for event in done.of("model_loaded")} == {"cuda:0"}
    assert done.summary["encoded"] == 3


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "darwin", reason="NVML is not looked for on macOS")
def test_a_card_that_torch_does_not_see_either_is_refused(rig: Rig) -> None:
    """Before anything is written."""
    done = rig.run(rig.build_command("--device", "cuda:1"), SECONDS, **with_torch(rig, count=1, cuda="12.8"))
    assert done.code == 2
    assert "torch sees cuda:0; accepted: auto, cpu, or a card that is there" in done.errors
    assert not rig.out.exists()


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "darwin", reason="NVML is not looked for on macOS")
def test_a_build_on_the_cpu_beside_a_broken_driver_warns(rig: Rig, library: Path) -> None:
    """The whole way: the sentence is an event of the run."""
    environ = with_torch(rig, count=0, cuda="12.8")
    answers = Answers(rig.folder / "answers.txt")
    answers.fail(**{INIT: 18})
    done = rig.run(rig.build_command(), SECONDS, **{**environ, **answers.environ(library)})
    assert done.code == 0, done.errors
    [note] = [event["text"] for event in done.of("note")]
    assert note.startswith("no card can be used: NVML: RM has detected an NVML/RM version mismatch (error 18 ")
