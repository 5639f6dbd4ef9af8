"""What the doctor says of settings and surroundings."""

from __future__ import annotations

from dataclasses import replace

import pytest

from helix_crawl_otel.doctor.checks import Check, Severity, worst
from helix_crawl_otel.doctor.facts import ShardFolder
from helix_crawl_otel.policy.model import MemoryReading
from tests.doctor.machines import CPU_ONLY, GIB, LINUX_80, WINDOWS_12, about, checks_of, with_card


def test_every_advice_names_its_source() -> None:
    """A reader can check it; a line without advice needs none."""
    machines = [
        CPU_ONLY,
        LINUX_80,
        WINDOWS_12,
        replace(CPU_ONLY, libraries={}, torch_build=None, port_problem="in use"),
    ]
    for check in [check for facts in machines for check in checks_of(facts)]:
        assert bool(check.advice) == bool(check.source), check
        assert not check.fact.endswith("."), check


def test_without_torch_only_the_test_encoder_is_left() -> None:
    """And what to install is said."""
    found = about(replace(CPU_ONLY, libraries={}, torch_build=None), "torch")
    assert found.verdict is Severity.WARN
    assert "helix-crawl-otel[minilm]" in found.advice


def test_torch_for_a_card_under_windows_is_not_that_of_pypi() -> None:
    """Whoever follows the advice shall not end with a torch that cannot use the card."""
    found = about(replace(WINDOWS_12, libraries={}, torch_build=None), "torch")
    assert found.advice.startswith("first torch for your CUDA, from pytorch.org")
    assert "pytorch.org" not in about(replace(LINUX_80, libraries={}, torch_build=None), "torch").advice


def test_torch_without_a_models_library() -> None:
    """Torch alone loads nothing."""
    found = about(replace(CPU_ONLY, libraries={"torch": "2.13.0"}), "models")
    assert found.verdict is Severity.WARN


@pytest.mark.parametrize(
    ("environ", "verdict"),
    [
        ({}, Severity.NOTE),
        ({"PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True"}, Severity.OK),
        ({"PYTORCH_ALLOC_CONF": "max_split_size_mb:64, expandable_segments: True"}, Severity.OK),
        ({"PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:False"}, Severity.NOTE),
    ],
)
def test_the_allocator_of_a_middling_card(environ: dict[str, str], verdict: Severity) -> None:
    """Expandable segments are advised up to 24 GB, on Linux."""
    assert about(replace(with_card(CPU_ONLY, 16, 1, None), environ=environ), "allocator").verdict is verdict


def test_the_allocator_where_nothing_is_to_be_gained() -> None:
    """A big card needs no advice; on Windows torch leaves the setting out."""
    assert about(LINUX_80, "allocator").verdict is Severity.OK
    environ = {"PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True"}
    assert "no help against a spill" in about(replace(WINDOWS_12, environ=environ), "allocator").advice


@pytest.mark.parametrize(
    ("gib", "every", "advice"),
    [
        (12.0, "", ""),
        (12.0, "256", "=64 kept"),
        (12.0, "64", ""),
        (24.0, "256", ""),
        (24.0, "0", "=256 kept"),
        (24.0, "1000", "=256"),
    ],
)
def test_the_release_interval_by_size(gib: float, every: str, advice: str) -> None:
    """What the operators of the incidents found to work."""
    facts = replace(with_card(CPU_ONLY, gib, 1.0, None), environ={"HELIX_DENSE_VRAM_RELEASE_EVERY": every})
    assert advice in about(facts, "release").advice
    assert bool(advice) == bool(about(facts, "release").advice)


def test_advice_is_typed_as_the_reader_types_it() -> None:
    """PowerShell under Windows, a POSIX shell elsewhere; what pip is told works in both, and in cmd."""
    for facts in (WINDOWS_12, with_card(CPU_ONLY, 12.0, 1.0, None)):
        environ = {
            "HELIX_BFM_CRAWL_FACTOR": "0.5",
            "OTEL_SDK_DISABLED": "true",
            "HELIX_DENSE_VRAM_RELEASE_EVERY": "256",
        }
        told = [check.advice for check in checks_of(replace(facts, environ=environ, libraries={}))]
        commands = {
            "win32": [
                '$env:HELIX_DENSE_VRAM_RELEASE_EVERY = "64"',
                "Remove-Item Env:HELIX_BFM_CRAWL_FACTOR",
                "Remove-Item Env:OTEL_SDK_DISABLED",
            ],
            "linux": [
                "export HELIX_DENSE_VRAM_RELEASE_EVERY=64",
                "export PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True",
                "unset HELIX_BFM_CRAWL_FACTOR",
                "unset OTEL_SDK_DISABLED",
            ],
        }[facts.platform]
        for command in [*commands, 'pip install "helix-crawl-otel[minilm]"']:
            assert [advice for advice in told if command in advice], command
        other = ("export ", "unset ") if facts.platform == "win32" else ("$env:", "Env:")
        assert not [advice for advice in told for word in other if word in advice]


def test_knobs_that_are_set_and_one_that_cannot_be_used() -> None:
    """The message is that of the commands."""
    facts = replace(CPU_ONLY, environ={"HELIX_BFM_CRAWL_FACTOR": "3", "CYMATIX_BFM_CRAWL_WINDOW": "4"})
    assert about(facts, "knobs").fact == "set: HELIX_BFM_CRAWL_FACTOR=3, CYMATIX_BFM_CRAWL_WINDOW=4"
    facts = replace(CPU_ONLY, environ={"HELIX_BFM_CRAWL_FACTOR": "0.5"})
    found = about(facts, "knobs")
    assert found.verdict is Severity.PROBLEM
    assert found.fact == "HELIX_BFM_CRAWL_FACTOR is '0.5'; accepted: a number > 1"
    assert about(CPU_ONLY, "knobs").fact == "none is set: the defaults hold"


def test_opentelemetry_switched_off_is_told() -> None:
    """The watchdog works all the same."""
    assert (
        "nothing is exported" in about(replace(CPU_ONLY, environ={"OTEL_SDK_DISABLED": "true"}), "opentelemetry").fact
    )


@pytest.mark.parametrize(
    ("version", "verdict"),
    [
        ((3, 22, 0), Severity.PROBLEM),
        ((3, 40, 1), Severity.NOTE),
        ((3, 51, 2), Severity.NOTE),
        ((3, 51, 3), Severity.OK),
    ],
)
def test_sqlite_by_its_version(version: tuple[int, int, int], verdict: Severity) -> None:
    """Upserts need 3.24; the WAL-reset bug was mended in 3.51.3."""
    assert about(replace(CPU_ONLY, sqlite=version), "sqlite").verdict is verdict


@pytest.mark.parametrize(
    ("place", "verdict"),
    [
        (ShardFolder("out", None, 50 * GIB), Severity.OK),
        (ShardFolder("out", None, GIB // 2), Severity.WARN),
        (ShardFolder("out", "Permission denied", 50 * GIB), Severity.PROBLEM),
        (ShardFolder("out", None, None), Severity.OK),
    ],
)
def test_the_output_folder(place: ShardFolder, verdict: Severity) -> None:
    """Rights and room."""
    assert about(replace(CPU_ONLY, place=place), "output").verdict is verdict


def test_a_port_in_use_is_a_warning() -> None:
    """A run goes on with another one."""
    found = about(replace(CPU_ONLY, port_problem="Address already in use"), "metrics")
    assert found.verdict is Severity.WARN
    assert found.fact == "nothing can listen at 127.0.0.1:9464: Address already in use"


def test_a_container_and_a_python_of_32_bits() -> None:
    """The first is a fact, the second a problem."""
    facts = replace(CPU_ONLY, group=MemoryReading(2 * GIB, 4 * GIB), cores=1)
    assert about(facts, "cpu").fact == "1 core for the encoder; 2.0 of 4.0 GiB of the container's memory in use"
    assert about(replace(CPU_ONLY, is_64_bit=False), "python").verdict is Severity.PROBLEM


def test_the_worst_of_several_lines() -> None:
    """It decides the exit code."""
    found = [Check("a", "b", verdict) for verdict in (Severity.NOTE, Severity.WARN, Severity.OK)]
    assert worst(found) is Severity.WARN
    assert worst([]) is Severity.OK
