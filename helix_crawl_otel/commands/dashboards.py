"""`helix-crawl dashboards`: writes the boards, rules and provisioning files, and says what to do with them."""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from helix_crawl_otel.commands.common import Commands, add_command, say
from helix_crawl_otel.config import ConfigError
from helix_crawl_otel.formats import shown_command
from helix_crawl_otel.paths import typed_path

if TYPE_CHECKING:
    from importlib.resources.abc import Traversable

__all__ = ["RUNBOOK", "register", "run", "shipped_files"]

RUNBOOK = "runbook.md"
"""Name of the copy, and what stands for its address in the files."""

RUNBOOK_URL = "https://helix-crawl-otel.readthedocs.io/page/runbook.html"
"""Where the runbook is read unless the user says otherwise; pyproject.toml names it as well."""

PROMETHEUS_RULE = "kubernetes/prometheus-rule.yml"
"""The rules once more, as the Prometheus operator takes them."""

PARTS = ("alertmanager", "compose.yml", "grafana", "prometheus")
"""What of the folder is written; the rest of it makes these."""

_DESCRIPTION = """\
Write the Grafana boards, the Prometheus rules with their alerts, provisioning files for both, an example for
Alertmanager, and the runbook that the alerts link to.

  grafana/boards         import them by hand, or let provisioning do it; the data source is chosen on the board
  grafana/provisioning   a data source beside yours, never the default one; leave it out where you have one
  prometheus             rules, and a prometheus.yml that starts as it is
  kubernetes             the same rules as a PrometheusRule, for the Prometheus operator
  alertmanager           an example of routes; put your receiver in it
  runbook.md             what each alert and each panel means, and what to do"""

_EPILOG = """\
examples:
  helix-crawl dashboards monitoring
  helix-crawl dashboards monitoring --runbook-url https://wiki.example/helix-crawl/runbook

Links lead to the project's page unless --runbook-url says where else a browser finds the runbook, of which DIR holds a
copy: no browser follows a link from a web page to a file.

exit codes: 0 done; 1 a file could not be written; 2 wrong option, or DIR holds files that differ."""


def register(commands: Commands) -> None:
    """Add the command to the command line."""
    parser = add_command(
        commands,
        "dashboards",
        run,
        "write the Grafana boards, alert rules and provisioning files",
        _DESCRIPTION,
        _EPILOG,
    )
    parser.add_argument("folder", metavar="DIR", help="where to; made if it is not there")
    parser.add_argument(
        "--runbook-url",
        metavar="URL",
        default=RUNBOOK_URL,
        help=f"address of the runbook, to which #section is added ({RUNBOOK_URL})",
    )
    parser.add_argument("--force", action="store_true", help="replace files in DIR that differ")


def run(args: argparse.Namespace) -> int:
    """Carry the command out. Returns its exit code.

    Raises:
        ConfigError: The address is none, or files that differ are in the way. Nothing has been written then.
        OSError: A file cannot be written.
    """
    if not args.folder:
        raise ConfigError("DIR is ''; accepted: a folder, there or not; . is the one that you are in")
    folder = typed_path(args.folder, "DIR")
    texts = shipped_files(_address(args.runbook_url))
    ways = sorted({str(path) for name in texts for path in _in_the_way(folder, name)})
    if ways:
        raise ConfigError(
            f"DIR is {str(folder)!r}, and {', '.join(ways)} is of another kind than what has to be written there; "
            "accepted: another folder. Nothing was written"
        )
    differing = [name for name, text in texts.items() if not _is_free(folder / name, text)]
    if differing and not args.force:
        raise ConfigError(
            f"DIR is {str(folder)!r} and holds other versions of {', '.join(differing)}; "
            "accepted: another folder, or --force to replace them. Nothing was written"
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        why = f"which cannot be made: {error.strerror or error}; accepted: a folder, there or not"
        raise OSError(error.errno, f"DIR is {str(folder)!r}, {why}") from None
    for name, text in texts.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8", newline="\n")
    say(*_next_steps(folder, texts).splitlines())
    return 0


def _address(given: str) -> str:
    try:
        url = urlsplit(given)
        is_url = url.scheme in ("http", "https") and bool(url.hostname) and url.port != 0
    except ValueError:  # a bracket, or a port that is none
        is_url = False
    if not is_url or not given.isprintable() or re.search(r"[\s\"'<>\\#{}$`]", given):
        raise ConfigError(f"--runbook-url is {given!r}; accepted: an http or https URL without an anchor")
    return given


def _is_free(path: Path, text: str) -> bool:
    """Nothing is there, or the same."""
    return not path.exists() or path.read_bytes().replace(b"\r\n", b"\n") == text.encode()


def _in_the_way(folder: Path, name: str) -> Iterator[Path]:
    """What no `--force` replaces: a folder in place of a file, and the other way round."""
    path = folder / name
    if path.is_dir():
        yield path
    below = [folder / parent for parent in Path(name).parents if parent.name]
    yield from (parent for parent in below if parent.exists() and not parent.is_dir())


def _next_steps(folder: Path, texts: Mapping[str, str]) -> str:
    rules = folder.absolute() / "prometheus" / "rules"
    apply = shown_command(["kubectl", "apply", "-f", str(folder / PROMETHEUS_RULE)])
    return f"""\
{len(texts)} files in {folder}

Grafana     Dashboards, New, Import: {folder / "grafana" / "boards" / "helix-crawl-job.json"}
            and helix-crawl-fleet.json; or copy grafana/provisioning and grafana/boards to its machine
Prometheus  rule_files: [{json.dumps(f"{rules.as_posix()}/helix-crawl-*.yml", ensure_ascii=False)}]
            and scrape 127.0.0.1:9464, as in {folder / "prometheus" / "prometheus.yml"}
Kubernetes  {apply}
Alerts      a receiver of yours in {folder / "alertmanager" / "alertmanager.yml"}
What to do  {folder / RUNBOOK}
"""


# -- the files that the package carries, with the runbook's address put in --------------------------------------------


def shipped_files(runbook: str) -> Mapping[str, str]:
    """Path from the folder that is written, and text, of every file.

    Args:
        runbook: Address of the runbook, without an anchor.
    """
    folder, runbook_text = _carried()
    found = {RUNBOOK: runbook_text, **dict(_below(folder, PARTS))}
    rules = [text for name, text in sorted(found.items()) if name.startswith("prometheus/rules/")]
    found[PROMETHEUS_RULE] = _prometheus_rule(rules)
    return {
        name: text if name == RUNBOOK else text.replace(f'"{RUNBOOK}#', f'"{runbook}#')
        for name, text in sorted(found.items())
    }


def _carried() -> tuple[Traversable, str]:
    """The folder and the runbook: in a wheel both are inside the package; in a checkout they stand at its top."""
    inside = files("helix_crawl_otel") / "dashboards"
    if (inside / RUNBOOK).is_file():
        return inside, (inside / RUNBOOK).read_text(encoding="utf-8")
    tree = Path(__file__).parents[2]
    return tree / "dashboards", (tree / "docs" / RUNBOOK).read_text(encoding="utf-8")


_PROMETHEUS_RULE_HEAD = """\
# The rules of prometheus/rules for the Prometheus operator: kubectl apply -f prometheus-rule.yml
# A Prometheus takes it whose ruleSelector fits its labels: give it those.
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: helix-crawl
  labels:
    app.kubernetes.io/name: helix-crawl
spec:
  groups:
"""


def _prometheus_rule(rules: Iterable[str]) -> str:
    """Files of rules as one manifest: their groups, two columns to the right."""
    groups = [line for text in rules for line in text.partition("groups:\n")[2].splitlines()]
    return _PROMETHEUS_RULE_HEAD + "".join(f"  {line}\n" if line else "\n" for line in groups)


def _below(folder: Traversable, names: Iterable[str], prefix: str = "") -> Iterator[tuple[str, str]]:
    for name in names:
        entry = folder / name
        if entry.is_dir():
            yield from _below(
                entry, [below.name for below in entry.iterdir() if below.name[0] != "."], f"{prefix}{name}/"
            )
        else:
            yield prefix + name, entry.read_text(encoding="utf-8")
