"""Writes decisions and actions as log lines: one sentence that a person on call can read, then the fields that a script
can grep, always the same ones in the same order.
"""

from __future__ import annotations

from collections.abc import Mapping

from helix_crawl_otel.formats import gib_number, shard_name
from helix_crawl_otel.policy.model import Action, Decision, EvidenceValue

__all__ = ["action_line", "decision_line"]

MOST_LETTERS = 24
"""Of a shard's name in a sentence."""

_SAID_BY_REASON = ("issued", "recovered", "hang")
"""Their reasons say what happened."""

_SHARED = {"shared": "shared_bytes", "shared_rise": "shared_rise_bytes", "others_shared": "other_shared_bytes"}


def decision_line(happened: str, decision: Decision) -> str:
    """One line: a sentence, then shard, rate, EMA, baseline, limit, memory and action.

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
    fields = f"{happened} action={action} shard={_name(shard)} device={device} rung={rung} {_numbers(evidence)}"
    what = happened if action == "-" else f"{action} {happened}"
    sentence = (reason if happened in _SAID_BY_REASON else f"{what}: {reason}") if reason else what
    return f"{_short_name(shard)}: {sentence}; {fields}"


def _short_name(shard: str) -> str:
    """For people, who have to see what happened beside it: the whole name is among the fields."""
    name = shard_name(shard)
    return name if len(name) <= MOST_LETTERS else f"{name[: MOST_LETTERS - 3]}..."


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
