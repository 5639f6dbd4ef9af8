"""Writes decisions and actions as log lines that a person on call can read and a script can grep."""

from __future__ import annotations

from collections.abc import Mapping

from helix_crawl_otel.formats import gib_number
from helix_crawl_otel.policy.model import Action, Decision, EvidenceValue

__all__ = ["action_line", "decision_line"]

_SHARED = {"shared": "shared_bytes", "shared_rise": "shared_rise_bytes", "others_shared": "other_shared_bytes"}


def decision_line(happened: str, decision: Decision) -> str:
    """One line with shard, rate, EMA, baseline, limit, memory and action.

    Args:
        happened: What became of it, such as `issued` or `vetoed`.
        decision: Its evidence may be empty.
    """
    action = decision.kind.value if decision.kind else "-"
    return _line(happened, action, decision.shard, decision.device, decision.rung, decision.evidence, decision.reason)


def action_line(happened: str, action: Action, what: str = "") -> str:
    """The same of an action that the driver has in its hands.

    Args:
        happened: What became of it, such as `applied` or `failed`.
        action: As it was queued.
        what: How, in one sentence.
    """
    kind = action.kind
    return _line(happened, kind.value, action.shard, action.device, kind.rung, action.evidence, what)


def _line(
    happened: str, action: str, shard: str, device: str, rung: int, evidence: Mapping[str, EvidenceValue], reason: str
) -> str:
    why = f": {reason}" if reason else ""
    return f"{happened} action={action} shard={_name(shard)} device={device} rung={rung} {_numbers(evidence)}{why}"


def _name(shard: str) -> str:
    """As it is, unless it would break the line or its fields."""
    return shard if shard.isprintable() and " " not in shard else ascii(shard)


def _numbers(evidence: Mapping[str, EvidenceValue]) -> str:
    rates = " ".join(f"{key}={_number(evidence.get(key), '.3g')}" for key in ("rate", "ema", "baseline", "limit"))
    return f"{rates} genes/s memory={_number(evidence.get('memory_fraction'), '.1%')}{_shared(evidence)}"


def _shared(evidence: Mapping[str, EvidenceValue]) -> str:
    """Shared memory in GiB, as far as it is known: it is on few machines."""
    return "".join(
        f" {name}={gib_number(value, 2)}GiB"
        for name, key in _SHARED.items()
        if isinstance(value := evidence.get(key), (int, float))
    )


def _number(value: EvidenceValue, form: str) -> str:
    return "unknown" if value is None or isinstance(value, str) else format(value, form)
