"""A series has one name, whether Prometheus scrapes the endpoint or gets it by way of OTLP: from a collector, or at its
own `/api/v1/otlp` (from 2.47 on; Debian's is 2.42 and has none, so the rule is applied here).

Source: the rule that the collector's `pkg/translator/prometheus` publishes, and Prometheus's `otlptranslator` after
it, with their default strategy (`UnderscoreEscapingWithSuffixes`); "OpenTelemetry, Prometheus and OpenMetrics
compatibility". What a scrape shows is tried in tests/otel/test_instruments_exported.py.
"""

from __future__ import annotations

import re

import pytest

from helix_crawl_otel.policy.instruments import INSTRUMENTS, Instrument, Kind
from tests.dashboards.shipped import BOARDS, RULES, queries

UNIT_PAIRS = """
d=days h=hours min=minutes s=seconds ms=milliseconds us=microseconds ns=nanoseconds By=bytes KiBy=kibibytes
MiBy=mebibytes GiBy=gibibytes KBy=kilobytes MBy=megabytes GBy=gigabytes m=meters V=volts A=amperes J=joules
W=watts g=grams Cel=celsius Hz=hertz 1= %=percent
"""
UNITS = dict(re.findall(r"(\S+)=(\S*)", UNIT_PAIRS))
PER = {"s": "second", "m": "minute", "h": "hour", "d": "day", "w": "week", "mo": "month", "y": "year"}

OF_PROMETHEUS = {"up", "ALERTS", "ALERTS_FOR_STATE", "target_info", "scrape_duration_seconds"}
"""Not exported by anybody: made by Prometheus itself."""


def translated(name: str, unit: str, kind: Kind) -> str:
    """What an OTLP metric is called in Prometheus."""
    words = re.findall(r"[A-Za-z0-9:]+", name)
    main, _, per = unit.partition("/")
    if main and "{" not in main and (suffix := UNITS.get(main, main)) and suffix not in words:
        words.append(suffix)
    if per and "{" not in per and (suffix := PER.get(per, per)) not in words:
        words += ["per", suffix]
    for ending, is_meant in (("total", kind is Kind.COUNTER), ("ratio", unit == "1" and kind is Kind.GAUGE)):
        if is_meant:
            words = [*(word for word in words if word != ending), ending]
    return "_".join(words)


def names_in(query: str) -> set[str]:
    """Every series that a query asks for; recorded ones, with a colon, among them."""
    query = re.sub(r'"(?:[^"\\]|\\.)*"|\'[^\']*\'|`[^`]*`', "", query)
    query = re.sub(r"\{[^}]*\}|\[[^\]]*\]", "", query)
    query = re.sub(r"\b(?:by|without|on|ignoring|group_left|group_right)\s*\([^)]*\)", " ", query)
    query = re.sub(r"\boffset\s+-?\w+|\$\w+|\b\d[\w.]*", " ", query)
    words = re.findall(r"[A-Za-z_:][\w:]*(?!\w)(?!\s*\()", query)
    operators = {"and", "or", "unless", "bool", "inf", "nan", "on", "ignoring", "group_left", "group_right", "atan2"}
    return {word for word in words if word.lower() not in operators}


def asked_for() -> dict[str, str]:
    """Each query of the boards, and each rule, by where it stands."""
    found = {f"{query.board}: {query.where}": query.expr for path in BOARDS for query in queries(path)}
    for path in RULES:
        lines = path.read_text(encoding="utf-8")
        for at, (expr, block) in enumerate(
            re.findall(r"^ +expr: (?:\|\n((?: {10,}.*\n)+)|(.+)$)", lines, re.MULTILINE)
        ):
            found[f"{path.stem}: rule {at}"] = expr or block
    return found


def recorded() -> set[str]:
    """The series that the rules make."""
    return {name for path in RULES for name in re.findall(r"record: (\S+)", path.read_text(encoding="utf-8"))}


@pytest.mark.parametrize("row", INSTRUMENTS, ids=lambda row: row.name)
def test_an_instrument_has_the_same_name_by_both_routes(row: Instrument) -> None:
    """Four gauges of unit 1 were `..._ratio` at the collector, and the alerts on them never fired there."""
    assert translated(row.name, row.unit, row.kind) == row.prometheus_name


def test_the_unit_1_is_for_ratios() -> None:
    """Anything else of that unit would be called one."""
    assert [row.name for row in INSTRUMENTS if row.unit == "1" and "ratio" not in row.prometheus_name] == []
    named = {row.name for row in INSTRUMENTS if row.unit == "1"}
    assert named >= {"helix_dense_crawl_ratio", "helix_dense_crawl_limit_ratio"}
    assert all(name.endswith(("_ratio", ".utilization")) for name in named)


def test_every_series_that_a_board_or_a_rule_asks_for_comes_by_both_routes() -> None:
    """What is asked for and never comes is an empty panel, or an alert that cannot fire."""
    exported = set()
    for row in INSTRUMENTS:
        name = translated(row.name, row.unit, row.kind)
        exported |= {name + part for part in (("_bucket", "_sum", "_count") if row.kind is Kind.HISTOGRAM else ("",))}
    known = exported | recorded() | OF_PROMETHEUS
    wanted = asked_for()
    assert len(wanted) > 50
    assert sum(bool(names_in(query)) for query in wanted.values()) > 50
    lost = {where: names_in(query) - known for where, query in wanted.items() if names_in(query) - known}
    assert lost == {}


@pytest.mark.parametrize(
    ("name", "unit", "kind", "expected"),
    [
        ("system.filesystem.usage", "By", Kind.UP_DOWN_COUNTER, "system_filesystem_usage_bytes"),
        ("system.network.dropped", "{packets}", Kind.COUNTER, "system_network_dropped_total"),
        ("network.transferred", "By/s", Kind.GAUGE, "network_transferred_bytes_per_second"),
        ("system.io", "foo/bar", Kind.UP_DOWN_COUNTER, "system_io_foo_per_bar"),
        ("broken.metric.speed.km.per_hour", "km/h", Kind.GAUGE, "broken_metric_speed_km_per_hour"),
        ("hw.gpu.speed.limit_ratio", "1", Kind.GAUGE, "hw_gpu_speed_limit_ratio"),
        ("active.directory.ds.name_cache.hit_rate", "%", Kind.GAUGE, "active_directory_ds_name_cache_hit_rate_percent"),
    ],
)
def test_the_rule_is_the_collectors(name: str, unit: str, kind: Kind, expected: str) -> None:
    """By examples in the manner of its own tests, so that a rule that is none does not pass."""
    assert translated(name, unit, kind) == expected
