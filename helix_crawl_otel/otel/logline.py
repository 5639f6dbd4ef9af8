"""Writes decisions as log lines that a person on call can read and a script can grep."""

from __future__ import annotations

from collections.abc import Mapping

from helix_crawl_otel.core.decisions import Decision
from helix_crawl_otel.core.model import EvidenceValue

__all__ = ["PREFIX", "decision_line"]

PREFIX = "[crawl-watchdog]"


def decision_line(happened: str, decision: Decision) -> str:
    """One line with shard, rate, EMA, baseline, limit, memory and action.

    Args:
        happened: What became of it, such as `issued` or `vetoed`.
        decision: Its evidence may be empty.
    """
    action = decision.kind.value if decision.kind else "-"
    reason = f": {decision.reason}" if decision.reason else ""
    return (
        f"{PREFIX} {happened} action={action} shard={decision.shard} device={decision.device} "
        f"rung={decision.rung} {_numbers(decision.evidence)}{reason}"
    )


def _numbers(evidence: Mapping[str, EvidenceValue]) -> str:
    rates = " ".join(f"{key}={_number(evidence.get(key), '.3g')}" for key in ("rate", "ema", "baseline", "limit"))
    return f"{rates} genes/s memory={_number(evidence.get('memory_fraction'), '.1%')}"


def _number(value: EvidenceValue, form: str) -> str:
    return "unknown" if value is None or isinstance(value, str) else format(value, form)
