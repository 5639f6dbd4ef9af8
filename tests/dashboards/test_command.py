"""`helix-crawl dashboards`: what it writes, from here and from an installed wheel, and what it refuses."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from helix_crawl_otel.cli import main
from helix_crawl_otel.commands.dashboards import RUNBOOK_URL
from tests.dashboards.shipped import ALERTS, FILES
from tests.programs import require_program
from tests.rules.tree import ROOT

KINDS = ("alerts", "recording")
ADDRESS = re.compile(r'"([a-z]+:[^"#]*)#')


def written(folder: Path) -> dict[str, str]:
    """Every file below a folder."""
    return {
        path.relative_to(folder).as_posix(): path.read_text(encoding="utf-8")
        for path in folder.rglob("*")
        if path.is_file()
    }


def addresses(texts: dict[str, str]) -> set[str]:
    """Where links to the runbook lead."""
    return {found for text in texts.values() for found in ADDRESS.findall(text)}


def test_everything_is_written_and_the_next_steps_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Boards, rules, provisioning, example and runbook; links lead to the project's page, never to a file."""
    folder = tmp_path / "two words" / "monitoring"
    assert main(["dashboards", str(folder)]) == 0
    texts = written(folder)
    kinds = (".json", ".yml")  # not what makes them
    found = [path.relative_to(FILES) for path in FILES.rglob("*") if path.suffix in kinds]
    carried = {path.as_posix() for path in found if path.parts[0] != "pictures"}
    assert set(texts) == carried | {"runbook.md", "kubernetes/prometheus-rule.yml"}
    assert texts["runbook.md"] == (ROOT / "docs" / "runbook.md").read_text(encoding="utf-8")
    assert addresses(texts) == {RUNBOOK_URL}
    assert f'Runbook = "{RUNBOOK_URL}"' in (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert not any('"runbook.md#' in text for text in texts.values())
    said = capsys.readouterr().out
    assert f"{len(texts)} files in {folder}" in said
    assert "rule_files:" in said
    assert "helix-crawl-job.json" in said


def test_a_prometheus_rule_holds_the_same_rules(tmp_path: Path) -> None:
    """For the operator: kind, version, and below `spec` what Prometheus reads, to the letter."""
    assert main(["dashboards", str(tmp_path)]) == 0
    texts = written(tmp_path)
    head, _, spec = texts["kubernetes/prometheus-rule.yml"].partition("spec:\n")
    assert "apiVersion: monitoring.coreos.com/v1\nkind: PrometheusRule\n" in head
    groups = "".join(texts[f"prometheus/rules/helix-crawl-{name}.yml"].partition("groups:\n")[2] for name in KINDS)
    assert textwrap.dedent(spec) == "groups:\n" + groups
    alone = tmp_path / "spec.yml"
    alone.write_text(textwrap.dedent(spec))
    command = [require_program("promtool"), "check", "rules", "--lint=all", "--lint-fatal", str(alone)]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=50)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(ALERTS) + groups.count('- record:')} rules found" in done.stdout


def test_the_data_source_stands_beside_others(tmp_path: Path) -> None:
    """Name and uid of its own, never the default one; boards name none, so that an import asks for no input."""
    assert main(["dashboards", str(tmp_path)]) == 0
    texts = written(tmp_path)
    source = texts["grafana/provisioning/datasources/helix-crawl.yml"]
    assert "name: Helix crawl Prometheus\n" in source
    assert "uid: helix-crawl-prometheus\n" in source
    assert "isDefault: false\n" in source
    for name in ("job", "fleet"):
        board = texts[f"grafana/boards/helix-crawl-{name}.json"]
        assert "__inputs" not in board
        assert set(re.findall(r'"uid": "([^"]*)"', board)) == {"${datasource}", f"helix-crawl-{name}"}


def test_links_lead_where_they_are_told(tmp_path: Path) -> None:
    """`--runbook-url`: every alert and panel."""
    assert main(["dashboards", str(tmp_path), "--runbook-url", "https://wiki.example/runbook"]) == 0
    texts = written(tmp_path)
    assert addresses(texts) == {"https://wiki.example/runbook"}
    for alert in ALERTS:
        rules = texts["prometheus/rules/helix-crawl-alerts.yml"]
        assert f'runbook_url: "https://wiki.example/runbook#{alert.lower()}"' in rules


def test_the_same_again_is_no_trouble_and_a_changed_file_is_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What somebody has edited is not overwritten unless asked, and then nothing else is written either."""
    assert main(["dashboards", str(tmp_path)]) == 0
    assert main(["dashboards", str(tmp_path)]) == 0
    mine = tmp_path / "alertmanager" / "alertmanager.yml"
    mine.write_text("route: mine\n")
    (tmp_path / "compose.yml").unlink()
    assert main(["dashboards", str(tmp_path)]) == 2
    assert "holds other versions of alertmanager/alertmanager.yml; accepted: another" in capsys.readouterr().err
    assert mine.read_text() == "route: mine\n"
    assert not (tmp_path / "compose.yml").exists()
    assert main(["dashboards", str(tmp_path), "--force"]) == 0
    assert mine.read_text() != "route: mine\n"


@pytest.mark.parametrize(
    "address",
    [
        *("wiki", "https://wiki/#top", 'https://wiki/"', "ftp://wiki/x", "https://a b", "file:///srv/x", "https:///x"),
        *("https://:80/x", "https://[::1/x", "https://wiki:port/", "https://wiki/\x01", "https://wiki/`x`", ""),
    ],
)
def test_an_address_that_is_none_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str], address: str) -> None:
    """It would break the files, or every link."""
    assert main(["dashboards", str(tmp_path / "out"), "--runbook-url", address]) == 2
    assert f"--runbook-url is {address!r}; accepted: an http or https URL without" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_folder_that_cannot_be_made(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One sentence and exit code 1."""
    (tmp_path / "file").write_text("")
    assert main(["dashboards", str(tmp_path / "file" / "below")]) == 1
    assert "helix-crawl: error: " in capsys.readouterr().err


@pytest.mark.parametrize("name", ["runbook.md", "compose.yml", "grafana", "prometheus/rules"])
def test_what_cannot_be_replaced_is_said_before(tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    """A folder where a file has to be, and the other way round: with `--force` too nothing is half written."""
    path = tmp_path / name
    if path.suffix:
        path.mkdir()
    else:
        path.parent.mkdir(exist_ok=True)
        path.write_text("mine")
    for more in ([], ["--force"]):
        assert main(["dashboards", str(tmp_path), *more]) == 2
        assert f"{path} is of another kind than what has to be written there" in capsys.readouterr().err
    assert list(written(tmp_path)) == [name] * (not path.is_dir())


def test_a_folder_without_a_name(capsys: pytest.CaptureFixture[str]) -> None:
    """A variable that is empty is not the folder that the shell is in."""
    assert main(["dashboards", ""]) == 2
    assert "DIR is ''; accepted: a folder" in capsys.readouterr().err


@pytest.mark.skipif(sys.platform == "win32", reason="no name has such letters there")
def test_what_is_to_be_typed_holds_with_any_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The line for prometheus.yml is YAML, that for the shell one word."""
    folder = tmp_path / 'a "b" it\'s\\'
    assert main(["dashboards", str(folder)]) == 0
    said = capsys.readouterr().out
    [rules] = re.findall(r"rule_files: (.*)", said)
    assert json.loads(rules) == [f"{folder}/prometheus/rules/helix-crawl-*.yml"]
    [typed] = re.findall(r"Kubernetes  (.*)", said)
    assert shlex.split(typed) == ["kubectl", "apply", "-f", f"{folder}/kubernetes/prometheus-rule.yml"]


@pytest.mark.timeout(180)
def test_an_installed_wheel_writes_them_too(tmp_path: Path) -> None:
    """Built, installed into a folder of its own, and run from elsewhere: nothing comes from this tree."""
    dist, site, out = tmp_path / "dist", tmp_path / "site", tmp_path / "out"
    pip = [sys.executable, "-m", "pip", "-q", "--disable-pip-version-check"]
    built = [*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", str(dist), str(ROOT)]
    subprocess.run(built, check=True, timeout=120, capture_output=True)
    wheel = next(dist.glob("*.whl"))
    installed = [*pip, "install", "--no-deps", "--no-index", "--target", str(site), str(wheel)]
    subprocess.run(installed, check=True, timeout=120, capture_output=True)
    done = subprocess.run(
        [sys.executable, "-m", "helix_crawl_otel", "dashboards", str(out)],
        check=False,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert (site / "helix_crawl_otel" / "dashboards" / "runbook.md").is_file()
    here = tmp_path / "here"
    assert main(["dashboards", str(here)]) == 0
    assert set(written(out)) == set(written(here))
    assert written(out)["runbook.md"] == written(here)["runbook.md"]
