"""What the page about several machines gives to be pasted: a manifest of KubeRay and a script of SLURM.

The fields are those of KubeRay's own reference of its API (v1, with `authOptions` from 1.5.1 on); no operator and no
SLURM runs here. The script runs with stand-ins for what it starts.
"""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.docs.blocks import subcommands
from tests.programs import require_program
from tests.rules.tree import ROOT

EXAMPLES = ROOT / "docs" / "examples"
SCRIPT = EXAMPLES / "fleet.slurm"

FIELDS = {
    "spec": {"rayVersion", "authOptions", "headGroupSpec", "workerGroupSpecs"},
    "headGroupSpec": {"rayStartParams", "template"},
    "workerGroupSpecs": {"groupName", "replicas", "minReplicas", "maxReplicas", "rayStartParams", "template"},
}

RAY = """#!/bin/sh
printf 'ray %s\\n' "$*" >> "$SAID"
case "$1" in get-auth-token) echo secret ;; esac
"""
SRUN = """#!/bin/sh
printf 'srun %s\\n' "$*" >> "$SAID"
"""
SCONTROL = SRUN.replace("srun", "scontrol")
HELIX_CRAWL = """#!/bin/sh
printf 'helix-crawl %s\\n' "$*" >> "$SAID"
[ "$CODE" = pauses ] || exit "$CODE"
trap 'exit 75' TERM
kill -TERM "$PPID"
while :; do sleep 0.05; done
"""


def test_the_manifest_has_fields_that_the_operator_knows() -> None:
    """And both groups are of one image, with the same environment."""
    yaml = pytest.importorskip("yaml", reason="comes with the extras of the models")
    manifest: dict[str, Any] = yaml.safe_load((EXAMPLES / "kuberay.yaml").read_text(encoding="utf-8"))
    assert (manifest["apiVersion"], manifest["kind"]) == ("ray.io/v1", "RayCluster")
    spec = manifest["spec"]
    assert set(spec) == FIELDS["spec"]
    assert spec["authOptions"] == {"mode": "token"}
    [workers] = spec["workerGroupSpecs"]
    assert set(workers) == FIELDS["workerGroupSpecs"]
    assert set(spec["headGroupSpec"]) == FIELDS["headGroupSpec"]
    assert workers["minReplicas"] <= workers["replicas"] <= workers["maxReplicas"]
    pods = [spec["headGroupSpec"], workers]
    for group in pods:
        # KubeRay takes strings only.
        assert all(isinstance(value, str) for value in group["rayStartParams"].values())
    [head], [worker] = (group["template"]["spec"]["containers"] for group in pods)
    assert (head["image"], head["envFrom"], head["env"]) == (worker["image"], worker["envFrom"], worker["env"])
    mounted = {mount["name"] for mount in worker["volumeMounts"]}
    assert mounted == {volume["name"] for volume in workers["template"]["spec"]["volumes"]}
    assert f"ray=={spec['rayVersion']}" in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()


@pytest.mark.skipif(os.name == "nt", reason="a script of Linux")
@pytest.mark.parametrize(("code", "ended"), [("0", 0), ("1", 1), ("pauses", 75)])
def test_the_script_of_slurm_starts_a_cluster_and_queues_what_has_paused(tmp_path: Path, code: str, ended: int) -> None:
    """SLURM's TERM goes to the script alone, which hands it on; what has paused is queued again, and nothing else."""
    programs = tmp_path / "venv" / "bin"
    programs.mkdir(parents=True)
    (programs / "activate").write_text("", encoding="utf-8")
    for name, text in (("ray", RAY), ("srun", SRUN), ("scontrol", SCONTROL), ("helix-crawl", HELIX_CRAWL)):
        (programs / name).write_text(text, encoding="utf-8")
        (programs / name).chmod(0o755)
    said = tmp_path / "said"
    done = subprocess.run(
        [require_program("bash"), SCRIPT, "/srv/a b", "/srv/out", "--stage", "/scratch"],
        check=False,
        env={
            "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
            "HOME": str(tmp_path),
            "HELIX_CRAWL_VENV": str(programs.parent),
            "SAID": str(said),
            "CODE": code,
            "SLURM_JOB_ID": "41",
            "SLURM_JOB_NUM_NODES": "3",
            "SLURM_GPUS_ON_NODE": "4",
            "SLURM_CPUS_PER_TASK": "8",
        },
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == ended, done.stderr
    lines = said.read_text(encoding="utf-8").splitlines()
    [head] = [line for line in lines if "ray start --head" in line]
    [others] = [line for line in lines if "ray start --address" in line]
    assert "--port=20041" in head
    assert "--nodes=2" in others
    assert all("--num-cpus=8 --block --num-gpus=4" in line for line in (head, others))
    [typed] = [line for line in lines if line.startswith("helix-crawl")]
    assert re.fullmatch(r"helix-crawl build /srv/a b --out /srv/out --ray \S+:20041 --plain --stage /scratch", typed)
    options = set(re.findall(r"--[a-z-]+", typed))
    assert options <= set(subcommands()["build"]._option_string_actions)
    assert [line for line in lines if line.startswith("scontrol")] == (["scontrol requeue 41"] if ended == 75 else [])
