"""Makes the boards that the package carries.

    python -m dashboards.source.make

The files are committed; a test makes them again and compares.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from grafana_foundation_sdk.builders import dashboard
from grafana_foundation_sdk.cog.encoder import JSONEncoder

from dashboards.source.fleet_board import fleet_board
from dashboards.source.job_board import ANNOTATIONS, job_board

__all__ = ["FOLDER", "made_boards"]

FOLDER = Path(__file__).resolve().parents[1] / "grafana" / "boards"


def made_boards() -> Mapping[Path, str]:
    """File and text of every board."""
    return {
        FOLDER / "helix-crawl-job.json": _text(job_board(), has_marks=True),
        FOLDER / "helix-crawl-fleet.json": _text(fleet_board(), has_marks=False),
    }


def _text(builder: dashboard.Dashboard, *, has_marks: bool) -> str:
    """The marks of many jobs would hide each other's graphs: there they wait to be switched on."""
    plain = json.loads(JSONEncoder(sort_keys=True).encode(builder.build()))
    plain["annotations"] = {"list": [{**mark, "enable": has_marks} for mark in ANNOTATIONS]}
    for number, panel in enumerate(plain["panels"], start=1):
        panel["id"] = number
    return json.dumps(plain, indent=2, sort_keys=True, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    for path, text in made_boards().items():
        path.write_text(text, encoding="utf-8", newline="\n")
        print(path.name)
