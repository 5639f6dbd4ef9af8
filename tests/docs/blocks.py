"""The generated parts of the reference, each made from the table or the signature that the code itself uses."""

from __future__ import annotations

import argparse
import dataclasses
import inspect
import re
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from enum import Enum
from functools import partial

import helix_crawl_otel
from helix_crawl_otel import cli
from helix_crawl_otel.config import KNOBS
from helix_crawl_otel.otel.gauges import ERROR_PLACES, IGNORED_REASONS, OWNERS, SHARD_STATES, STAGES, START_REASONS
from helix_crawl_otel.otel.run_gauges import RUN_STATES
from helix_crawl_otel.policy.instruments import BATCH_DURATION_BOUNDS, INSTRUMENTS
from helix_crawl_otel.policy.model import ActionKind, Outcome
from helix_crawl_otel.policy.settings import Settings
from helix_crawl_otel.simulate.families import FAMILIES
from helix_crawl_otel.simulate.policies import DEFINITIONS
from helix_crawl_otel.simulate.scenario import SCENARIOS
from helix_crawl_otel.watch.shard import ShardWatch

__all__ = ["CLASSES", "OPTIONS", "subcommands"]


def table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """A Markdown table."""
    lines = [" | ".join(headings), "|".join("---" for _ in headings)]
    lines += [" | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in row) for row in rows]
    return [f"|{line}|" if at == 1 else f"| {line} |" for at, line in enumerate(lines)]


def code(text: str) -> str:
    """Text as code, nothing for nothing."""
    return f"`{text}`" if text else ""


def listed(words: Iterable[str]) -> str:
    """Words as code, with commas."""
    return ", ".join(code(word) for word in words)


# -- knobs ------------------------------------------------------------------------------------------------------------


def knobs() -> list[str]:
    """The table of knobs. Read by: the commands that offer the option, and `CrawlConfig` for the knobs of the rule."""
    offered = {name: _option_names(parser) for name, parser in subcommands().items()}

    def readers(option: str, field: str | None) -> str:
        places = ([f"`CrawlConfig.{field}`"] if field else []) + [
            code(name) for name, options in offered.items() if option in options
        ]
        return ", ".join(places) or "no command of this version"

    rows = [
        (
            code(row.variable),
            code(row.option),
            code(row.shown_default),
            row.accepted.text,
            row.meaning,
            readers(row.option, row.field),
        )
        for row in KNOBS
    ]
    return table(("variable", "option", "default", "accepted", "meaning", "read by"), rows)


def aliases() -> list[str]:
    """Older names of variables."""
    return table(("alias", "read as"), [(code(alias), code(row.variable)) for row in KNOBS for alias in row.aliases])


# -- instruments ------------------------------------------------------------------------------------------------------


def instruments() -> list[str]:
    """The table of instruments."""
    rows = [
        (code(row.name), row.kind.value, code(row.unit), code(row.prometheus_name), listed(row.labels))
        for row in INSTRUMENTS
    ]
    return table(("instrument (OpenTelemetry)", "kind", "unit", "Prometheus", "labels"), rows)


def descriptions() -> list[str]:
    """What each instrument says."""
    return table(("instrument", "what it says"), [(code(row.name), row.description) for row in INSTRUMENTS])


def label_values() -> list[str]:
    """Labels with a fixed set of values."""
    kinds = [kind.value for kind in ActionKind]
    rows = [
        ("action", "helix_dense_ladder_actions", kinds),
        ("owner", "helix_dense_vram_shared", OWNERS),
        ("outcome", "helix_dense_ladder_actions", [outcome.value for outcome in Outcome]),
        ("reason", "helix_dense_worker_starts", START_REASONS),
        ("reason", "helix_dense_samples_ignored", IGNORED_REASONS),
        ("stage", "helix_dense_batch_duration", STAGES),
        ("state", "helix_dense_shards", SHARD_STATES),
        ("state", "helix_dense_run_state", RUN_STATES),
        ("command", "helix_dense_run_info", ("build", "backfill", "demo", "run", "embedded")),
        ("hw.gpu.clock", "hw.gpu.speed", ("sm", "memory")),
        ("hw.gpu.throttle_reason", "hw.gpu.throttled", ("thermal", "power", "hardware")),
        ("where", "helix_dense_internal_errors", ERROR_PLACES),
    ]
    return table(("label", "of", "values"), [(code(label), code(name), listed(values)) for label, name, values in rows])


def buckets() -> list[str]:
    """Bounds of the histogram."""
    return ["Bounds, in seconds: " + ", ".join(f"{bound:g}" for bound in BATCH_DURATION_BOUNDS) + "."]


# -- Python -----------------------------------------------------------------------------------------------------------


def names() -> list[str]:
    """Everything that the package exports, with the first sentence of its docstring."""
    rows = []
    for name in sorted(set(helix_crawl_otel.__all__) - {"__version__"}):
        rows.append((code(name), _summary(getattr(helix_crawl_otel, name))))
    rows.append((code("__version__"), "Version of the package, a string."))
    return table(("name", "what it is"), rows)


def _summary(thing: object) -> str:
    text = inspect.getdoc(thing) or ""
    return re.split(r"\n\n|(?<=\.)\s", text, maxsplit=1)[0].replace("\n", " ")


def fields(kind: type, described_by: type | None = None) -> list[str]:
    """Fields of a value class, with their defaults and what its docstring says of them."""
    meanings = _arguments(described_by or kind)
    rows = []
    for item in dataclasses.fields(kind):
        default = "" if item.default is dataclasses.MISSING else repr(item.default)
        rows.append((code(item.name), code(_plain(str(item.type))), code(default), meanings[item.name]))
    return table(("field", "type", "default", "meaning"), rows)


def signatures(kind: type, members: Sequence[str], *, called: str) -> list[str]:
    """The constructor (where `__init__` is named) and methods of a class, as code."""
    lines = ["```python"]
    for member in members:
        found = inspect.getattr_static(kind, member)
        if isinstance(found, property):
            lines.append(
                f"{called}.{member}: {_plain(str(found.fget.__annotations__['return']))}" if found.fget else ""
            )
            continue
        name = kind.__name__ if member == "__init__" else f"{called}.{member}"
        lines += _signature(name, found, skip_self=True)
    return [*lines, "```"]


def function(thing: Callable[..., object]) -> list[str]:
    """The signature of a function, as code."""
    return ["```python", *_signature(thing.__name__, thing, skip_self=False), "```"]


def _signature(name: str, thing: Callable[..., object], *, skip_self: bool) -> list[str]:
    found = inspect.signature(thing.__func__ if isinstance(thing, classmethod) else thing)
    parts: list[str] = []
    for parameter in list(found.parameters.values())[1 if skip_self else 0 :]:
        if parameter.kind is parameter.KEYWORD_ONLY and "*" not in parts:
            parts.append("*")
        default = "" if parameter.default is parameter.empty else f" = {_shown(parameter.default)}"
        parts.append(f"{parameter.name}: {_plain(str(parameter.annotation))}{default}")
    returned = _plain(str(found.return_annotation))
    tail = "" if name[0].isupper() or returned == "None" else f" -> {returned}"
    line = f"{name}({', '.join(parts)}){tail}"
    return [line] if len(line) <= 110 else [f"{name}(", *(f"    {part}," for part in parts), f"){tail}"]


def _shown(default: object) -> str:
    if isinstance(default, Enum):
        return f"{type(default).__name__}.{default.name}"
    return "time.monotonic" if default is time.monotonic else repr(default)


def _plain(text: str) -> str:
    """An annotation without the places that its names come from."""
    text = re.sub(r"\b(?:[a-z_]+\.)+([A-Z])", r"\1", text)
    return {"Hook": "Callable[[Action], object]"}.get(text, text)


def _arguments(kind: type) -> dict[str, str]:
    """The `Args:` of a docstring, by name."""
    text = inspect.getdoc(kind) or ""
    found = re.search(r"^Args:\n((?:    .*\n?|\n)+)", text, re.MULTILINE)
    meanings: dict[str, str] = {}
    name = ""
    for line in found[1].splitlines() if found else []:
        head = re.match(r"    (\w+): (.*)", line)
        if head:
            name = head[1]
            meanings[name] = head[2]
        elif line.strip():
            meanings[name] += " " + line.strip()
    # The code also names its source, which readers of the reference do not have.
    return {name: text.replace(" (INCIDENTS.md)", "") for name, text in meanings.items()}


def members(kind: type) -> list[str]:
    """Public methods and properties of a class of ours, in the order of its source."""
    return [name for name, value in vars(kind).items() if not name.startswith("_") and _is_member(value)]


def _is_member(value: object) -> bool:
    return isinstance(value, property | classmethod) or inspect.isfunction(value)


def _class(name: str, called: str, without: Sequence[str] = ()) -> Callable[[], list[str]]:
    def make() -> list[str]:
        kind = ShardWatch if name == "ShardWatch" else getattr(helix_crawl_otel, name)
        shown = [member for member in members(kind) if member not in without]
        return signatures(kind, [*(["__init__"] if name in ("CrawlWatch", "Index") else []), *shown], called=called)

    return make


def _action_fields() -> list[str]:
    """`evidence` has a factory, whose text says nothing: an action that the policy makes always has one."""
    kind = helix_crawl_otel.Action
    meanings = _arguments(kind)
    rows = [(code(item.name), code(_plain(str(item.type))), meanings[item.name]) for item in dataclasses.fields(kind)]
    return table(("field", "type", "meaning"), rows)


INTERNAL = {
    "ActionQueue": ("put", "discard"),  # the policy calls these, not the driver
    "ShardWatch": ("after_fork", "is_open", "leave_open"),
}
"""Public to the package, not to a driver."""

CLASSES: dict[str, Callable[[], list[str]]] = {
    "CrawlWatch": _class("CrawlWatch", "watch"),
    "ShardWatch": _class("ShardWatch", "shard", INTERNAL["ShardWatch"]),
    "ActionQueue": _class("ActionQueue", "watch.actions", INTERNAL["ActionQueue"]),
    "MetricsEndpoint": _class("MetricsEndpoint", "endpoint"),
    "serve_metrics": lambda: function(helix_crawl_otel.serve_metrics),
    "cap_vram": lambda: function(helix_crawl_otel.cap_vram),
    "CrawlConfig": lambda: fields(helix_crawl_otel.CrawlConfig, Settings),
    "MemoryReading": lambda: fields(helix_crawl_otel.MemoryReading),
    "query": lambda: function(helix_crawl_otel.query),
    "Index": _class("Index", "index"),
    "Match": lambda: fields(helix_crawl_otel.Match),
    "Action": _action_fields,
    "ShardStatus": lambda: fields(helix_crawl_otel.ShardStatus),
    "ActionKind": lambda: table(("member", "rung"), [(code(kind.value), str(kind.rung)) for kind in ActionKind]),
}


# -- commands ---------------------------------------------------------------------------------------------------------


def parser() -> argparse.ArgumentParser:
    """The parser of `helix-crawl`."""
    return cli._parser()


def subcommands() -> dict[str, argparse.ArgumentParser]:
    """Parsers of the commands, by name."""
    actions = [action for action in parser()._actions if isinstance(action, argparse._SubParsersAction)]
    return dict(actions[0].choices)


def commands() -> list[str]:
    """The commands that there are."""
    actions = [action for action in parser()._actions if isinstance(action, argparse._SubParsersAction)]
    helps = {action.dest: action.help or "" for action in actions[0]._choices_actions}
    return table(("command", "what it does"), [(code(f"helix-crawl {name}"), text) for name, text in helps.items()])


def _shown_options(command: argparse.ArgumentParser) -> list[argparse.Action]:
    return [action for action in command._actions if not isinstance(action, argparse._SubParsersAction)]


def _option_names(command: argparse.ArgumentParser) -> set[str]:
    return {name for action in command._actions for name in action.option_strings}


def options(name: str) -> list[str]:
    """Arguments and options of a command; those of the knobs by name only, they stand on their own page."""
    command = subcommands()[name]
    by_knob = {row.option for row in KNOBS}
    rows = []
    for action in _shown_options(command):
        if set(action.option_strings) & by_knob:
            continue
        usual = " ".join(filter(None, [", ".join(action.option_strings), str(action.metavar or "")]))
        # The demo's folder is the machine's own: what the page says must be the same everywhere.
        text = _sentence(action.help or "").replace(tempfile.gettempdir(), "TMP")
        rows.append((code(usual or action.dest), text))
    given = [row.option for row in KNOBS if row.option in _option_names(command)]
    if given:
        rows.append((listed(given), "the knobs, see [knobs](knobs.md); an option wins over the environment"))
    return table(("option", "meaning"), rows)


def _sentence(text: str) -> str:
    return text.replace("%%", "%")


OPTIONS: dict[str, Callable[[], list[str]]] = {name: partial(options, name) for name in subcommands()}


def scenarios() -> list[str]:
    """The scenarios of `simulate`."""
    return table(("scenario", "what it models"), [(code(item.name), item.text) for item in SCENARIOS])


def families() -> list[str]:
    """The families of `simulate --random`."""
    return table(("family", "what it models"), [(code(name), text) for name, (text, _) in FAMILIES.items()])


def policies() -> list[str]:
    """The policies that `simulate` compares."""
    return table(("policy", "what it does"), [(code(name), text) for name, text in DEFINITIONS.items()])
