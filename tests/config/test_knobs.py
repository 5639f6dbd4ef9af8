"""Promises of the table of knobs and of its only reader. Source: DESIGN.md, sections 3.2 and 3.4."""

from __future__ import annotations

import dataclasses
import logging
import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helix_crawl_otel.cli import main
from helix_crawl_otel.config import (
    KNOBS,
    ConfigError,
    CrawlConfig,
    Knob,
    doubtful_variables,
    environment,
    knob,
    otel_disabled,
    read_knob,
)
from helix_crawl_otel.policy.settings import Settings
from tests.rules.tree import ROOT

CONTRACT = {
    "HELIX_BFM_CRAWL_FACTOR": ("--factor", 5.0),
    "HELIX_BFM_CRAWL_WINDOW": ("--window", 8),
    "HELIX_BFM_CRAWL_ACTION": ("--action", "ladder"),
    "HELIX_BFM_CRAWL_VRAM": ("--vram", 0.92),
    "HELIX_BFM_CRAWL_EMA_ALPHA": ("--ema-alpha", 0.3),
    "HELIX_BFM_CRAWL_WARMUP": ("--warmup", 1),
    "HELIX_BFM_CRAWL_INFLIGHT": ("--inflight", True),
    "HELIX_BFM_CRAWL_SHARED": ("--shared", False),
    "HELIX_DENSE_CPU_BELOW_GIB": ("--cpu-below-gib", 12.0),
    "BGEM3_DEVICE": ("--device", "auto"),
    "HELIX_DENSE_BATCH_TOKENS": ("--batch-tokens", "auto"),
    "HELIX_DENSE_DTYPE": ("--dtype", "auto"),
    "HELIX_DENSE_VRAM_RELEASE_EVERY": ("--release-every", "auto"),
    "HELIX_DENSE_VRAM_CAP": ("--vram-cap", "auto"),
    "OTEL_EXPORTER_PROMETHEUS_HOST": ("--metrics-host", "127.0.0.1"),
    "OTEL_EXPORTER_PROMETHEUS_PORT": ("--metrics-port", 9464),
    "HELIX_CRAWL_LINGER": ("--linger", 20.0),
}

ACCEPTED = [
    ("HELIX_BFM_CRAWL_FACTOR", "3", 3.0),
    ("HELIX_BFM_CRAWL_FACTOR", " 2.5 ", 2.5),
    ("HELIX_BFM_CRAWL_FACTOR", "1e1", 10.0),
    ("HELIX_BFM_CRAWL_FACTOR", ".15e2", 15.0),
    ("HELIX_BFM_CRAWL_WINDOW", "1", 1),
    ("HELIX_BFM_CRAWL_WINDOW", "\t12\n", 12),
    ("HELIX_BFM_CRAWL_ACTION", "CPU", "cpu"),
    ("HELIX_BFM_CRAWL_ACTION", "Off", "off"),
    ("HELIX_BFM_CRAWL_ACTION", "ladder", "ladder"),
    ("HELIX_BFM_CRAWL_VRAM", "1", 1.0),
    ("HELIX_BFM_CRAWL_VRAM", "0.5", 0.5),
    ("HELIX_BFM_CRAWL_EMA_ALPHA", "1.0", 1.0),
    ("HELIX_BFM_CRAWL_WARMUP", "0", 0),
    ("HELIX_BFM_CRAWL_INFLIGHT", "OFF", False),
    ("HELIX_BFM_CRAWL_INFLIGHT", "yes", True),
    ("HELIX_BFM_CRAWL_INFLIGHT", "0", False),
    ("HELIX_BFM_CRAWL_INFLIGHT", "True", True),
    ("HELIX_BFM_CRAWL_SHARED", "ON", True),
    ("HELIX_BFM_CRAWL_SHARED", "off", False),
    ("HELIX_DENSE_CPU_BELOW_GIB", "0", 0.0),
    ("BGEM3_DEVICE", "CUDA:1", "cuda:1"),
    ("BGEM3_DEVICE", "cuda", "cuda"),
    ("HELIX_DENSE_BATCH_TOKENS", "AUTO", "auto"),
    ("HELIX_DENSE_BATCH_TOKENS", " 8192 ", 8192),
    ("HELIX_DENSE_BATCH_TOKENS", "1", 1),
    ("HELIX_DENSE_DTYPE", "Float16", "float16"),
    ("HELIX_DENSE_VRAM_RELEASE_EVERY", "0", 0),
    ("HELIX_DENSE_VRAM_RELEASE_EVERY", "256", 256),
    ("HELIX_DENSE_VRAM_RELEASE_EVERY", "AUTO", "auto"),
    ("HELIX_DENSE_VRAM_CAP", "Auto", "auto"),
    ("HELIX_DENSE_VRAM_CAP", "OFF", "off"),
    ("HELIX_DENSE_VRAM_CAP", "0.9", 0.9),
    ("HELIX_DENSE_VRAM_CAP", "1", 1.0),
    ("OTEL_EXPORTER_PROMETHEUS_HOST", "::1", "::1"),
    ("OTEL_EXPORTER_PROMETHEUS_PORT", "0", 0),
    ("OTEL_EXPORTER_PROMETHEUS_PORT", "65535", 65535),
    ("HELIX_CRAWL_LINGER", "0", 0.0),
    ("HELIX_CRAWL_LINGER", "90.5", 90.5),
]

REFUSED = [
    ("HELIX_BFM_CRAWL_FACTOR", text) for text in ("1", "0", "-5", "nan", "inf", "1e999", "5,0", "5x", "1_0", "0x10")
] + [
    ("HELIX_BFM_CRAWL_WINDOW", "8.5"),
    ("HELIX_BFM_CRAWL_WINDOW", "1e3"),
    ("HELIX_BFM_CRAWL_WINDOW", "0"),
    ("HELIX_BFM_CRAWL_WINDOW", "1_0"),
    ("HELIX_BFM_CRAWL_WINDOW", "٣"),
    ("HELIX_BFM_CRAWL_WINDOW", "9" * 5000),
    ("HELIX_BFM_CRAWL_ACTION", "ladders"),
    ("HELIX_BFM_CRAWL_VRAM", "0"),
    ("HELIX_BFM_CRAWL_VRAM", "1.01"),
    ("HELIX_BFM_CRAWL_VRAM", "92%"),
    ("HELIX_BFM_CRAWL_EMA_ALPHA", "-0.1"),
    ("HELIX_BFM_CRAWL_WARMUP", "-1"),
    ("HELIX_BFM_CRAWL_INFLIGHT", "2"),
    ("HELIX_BFM_CRAWL_INFLIGHT", "enabled"),
    ("HELIX_BFM_CRAWL_SHARED", "512"),
    ("HELIX_DENSE_CPU_BELOW_GIB", "-1"),
    ("BGEM3_DEVICE", "gpu"),
    ("BGEM3_DEVICE", "cuda:"),
    ("HELIX_DENSE_BATCH_TOKENS", "0"),
    ("HELIX_DENSE_BATCH_TOKENS", "16k"),
    ("HELIX_DENSE_BATCH_TOKENS", "1e4"),
    ("HELIX_DENSE_BATCH_TOKENS", "automatic"),
    ("HELIX_DENSE_DTYPE", "half"),
    ("HELIX_DENSE_VRAM_RELEASE_EVERY", "-1"),
    ("HELIX_DENSE_VRAM_RELEASE_EVERY", "never"),
    ("HELIX_DENSE_VRAM_CAP", "0"),
    ("HELIX_DENSE_VRAM_CAP", "1.01"),
    ("HELIX_DENSE_VRAM_CAP", "on"),
    ("OTEL_EXPORTER_PROMETHEUS_HOST", "two words"),
    ("OTEL_EXPORTER_PROMETHEUS_PORT", "65536"),
    ("OTEL_EXPORTER_PROMETHEUS_PORT", "-1"),
    ("HELIX_CRAWL_LINGER", "-1"),
    ("HELIX_CRAWL_LINGER", "3601"),
    ("HELIX_CRAWL_LINGER", "soon"),
]


def test_table_has_every_knob_of_the_contract() -> None:
    """Variables, options and defaults are what section 3.2 says; nothing is missing, nothing more is there."""
    assert {row.variable: (row.option, row.default) for row in KNOBS} == CONTRACT


def test_the_fields_are_the_rule() -> None:
    """`CrawlConfig` takes the arguments of section 3.4, with those defaults, and each has a knob."""
    assert [field.name for field in dataclasses.fields(CrawlConfig)] == [row.field for row in KNOBS if row.field]
    assert CrawlConfig() == CrawlConfig(5.0, 8, "ladder", 0.92, 0.3, 1, True, False)
    assert isinstance(CrawlConfig(), Settings)


def test_a_config_cannot_be_changed() -> None:
    """It is a value: whoever wants another makes one."""
    with pytest.raises(dataclasses.FrozenInstanceError):
        CrawlConfig().window = 3  # type: ignore[misc]  # that is the point


def test_a_wrong_argument_is_refused() -> None:
    """A constructor argument of the wrong kind raises `ValueError` that names it."""
    with pytest.raises(ValueError, match=r"window is 8\.5; accepted: an integer >= 1"):
        CrawlConfig(window=8.5)  # type: ignore[arg-type]  # that is the point


@pytest.mark.parametrize(("variable", "text", "value"), ACCEPTED)
def test_accepted(variable: str, text: str, value: object) -> None:
    """White space around a value and the case of words do not matter."""
    read = read_knob(variable, {variable: text}, strict=True)
    assert read == value
    assert type(read) is type(value)


@pytest.mark.parametrize(("variable", "text"), REFUSED, ids=lambda value: str(value)[:24])
def test_refused_where_it_is_strict(variable: str, text: str) -> None:
    """The message names the variable, the value and what is accepted."""
    with pytest.raises(ConfigError) as caught:
        read_knob(variable, {variable: text}, strict=True)
    message = str(caught.value)
    assert message.startswith(f"{variable} is {text[:80]!r}; accepted: ")
    assert knob(variable).accepted.text in message


@pytest.mark.parametrize(("variable", "text"), REFUSED, ids=lambda value: str(value)[:24])
def test_the_default_where_it_is_not(variable: str, text: str) -> None:
    """Embedded in somebody's job a bad value never raises."""
    assert read_knob(variable, {variable: text}) == knob(variable).default


@pytest.mark.parametrize("row", KNOBS, ids=lambda row: row.variable)
def test_an_empty_value_is_no_value(row: Knob) -> None:
    """Empty and blank mean unset, as OpenTelemetry specifies."""
    assert read_knob(row.variable, {row.variable: ""}, strict=True) == row.default
    assert read_knob(row.variable, {row.variable: " \t"}, strict=True) == row.default


@pytest.mark.parametrize("row", KNOBS, ids=lambda row: row.variable)
def test_the_default_can_be_written(row: Knob) -> None:
    """What the reference shows as the default is accepted and means the default."""
    assert row.parse(row.variable, row.shown_default) == row.default


def test_an_alias_is_read_and_the_newer_name_wins() -> None:
    """The app of the incidents was renamed; its users' settings go on working."""
    old = {"CYMATIX_BFM_CRAWL_FACTOR": "3", "CYMATIX_BFM_CRAWL_WINDOW": "5", "CYMATIX_BFM_CRAWL_ACTION": "off"}
    assert CrawlConfig.from_env(old, strict=True) == CrawlConfig(factor=3.0, window=5, action="off")
    assert CrawlConfig.from_env({**old, "HELIX_BFM_CRAWL_FACTOR": "4"}).factor == 4.0
    assert CrawlConfig.from_env({**old, "HELIX_BFM_CRAWL_FACTOR": " "}).factor == 3.0
    assert knob("CYMATIX_BFM_CRAWL_WINDOW") is knob("HELIX_BFM_CRAWL_WINDOW")


def test_the_knobs_without_an_alias_have_none() -> None:
    """The app has no others that mean the same."""
    assert CrawlConfig.from_env({"CYMATIX_BFM_CRAWL_VRAM": "0.5", "CYMATIX_BFM_CRAWL_WARMUP": "7"}) == CrawlConfig()


def test_a_bad_alias_is_named_as_it_was_written() -> None:
    """The user looks for the name that they set."""
    with pytest.raises(ConfigError, match="CYMATIX_BFM_CRAWL_WINDOW is '0'"):
        CrawlConfig.from_env({"CYMATIX_BFM_CRAWL_WINDOW": "0"}, strict=True)


def test_a_bad_newer_name_does_not_fall_back_to_the_alias() -> None:
    """HELIX wins, also when it is wrong: two half-read settings are worse than a default."""
    environ = {"HELIX_BFM_CRAWL_FACTOR": "fast", "CYMATIX_BFM_CRAWL_FACTOR": "3"}
    assert CrawlConfig.from_env(environ).factor == 5.0


def test_a_bad_value_warns_once(caplog: pytest.LogCaptureFixture) -> None:
    """Once a variable and value, with the prefix, what is accepted and what happens now."""
    environ = {"HELIX_BFM_CRAWL_WINDOW": "warn-once"}
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            CrawlConfig.from_env(environ)
        CrawlConfig.from_env({"HELIX_BFM_CRAWL_WINDOW": "warn-again"})
    assert [record.getMessage() for record in caplog.records] == [
        "[crawl-watchdog] HELIX_BFM_CRAWL_WINDOW is 'warn-once'; accepted: an integer >= 1; using the default, 8",
        "[crawl-watchdog] HELIX_BFM_CRAWL_WINDOW is 'warn-again'; accepted: an integer >= 1; using the default, 8",
    ]


def test_the_process_environment_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    """`from_env()` reads this process, as it is now."""
    monkeypatch.setenv("HELIX_BFM_CRAWL_WINDOW", "11")
    assert CrawlConfig.from_env().window == 11
    assert environment()["HELIX_BFM_CRAWL_WINDOW"] == "11"


def test_metrics_address() -> None:
    """Loopback and OpenTelemetry's port unless told otherwise."""
    host, port = "OTEL_EXPORTER_PROMETHEUS_HOST", "OTEL_EXPORTER_PROMETHEUS_PORT"
    assert (read_knob(host, {}), read_knob(port, {})) == ("127.0.0.1", 9464)
    told = {host: "0.0.0.0", port: "9000"}
    assert (read_knob(host, told), read_knob(port, told)) == ("0.0.0.0", 9000)
    with pytest.raises(ConfigError, match="OTEL_EXPORTER_PROMETHEUS_PORT is 'http'"):
        read_knob(port, {port: "http"}, strict=True)


@pytest.mark.parametrize(
    ("text", "disabled"), [("true", True), ("TRUE", True), ("1", False), ("yes", False), ("", False)]
)
def test_otel_disabled(text: str, disabled: bool) -> None:
    """Only the word true counts, as the OpenTelemetry specification says of booleans."""
    assert otel_disabled({"OTEL_SDK_DISABLED": text}) is disabled
    assert otel_disabled({}) is False


@given(st.sampled_from([row.variable for row in KNOBS]), st.text(max_size=30))
def test_any_text_is_accepted_or_refused_clearly(variable: str, text: str) -> None:
    """No text gives another exception or a value out of range."""
    try:
        value = read_knob(variable, {variable: text}, strict=True)
    except ConfigError:
        return
    assert not isinstance(value, float) or math.isfinite(value)
    field = knob(variable).field
    if field:
        CrawlConfig(**{field: value})  # type: ignore[arg-type]  # one keyword, made from its own row


class TestUnknownVariables:
    """A slip of the pen does not pass for a setting."""

    @pytest.mark.parametrize(
        ("name", "near"),
        [
            ("HELIX_BFM_CRAWL_FACTER", "HELIX_BFM_CRAWL_FACTOR"),
            ("HELIX_DENSE_RELEASE_EVERY", "HELIX_DENSE_VRAM_RELEASE_EVERY"),
            ("HELIX_CRAWL_LINGERS", "HELIX_CRAWL_LINGER"),
            ("CYMATIX_BFM_CRAWL_WINDOWS", "CYMATIX_BFM_CRAWL_WINDOW"),
            ("CYMATIX_BFM_CRAWL_VRAM", "HELIX_BFM_CRAWL_VRAM"),
            ("CYMATIX_DENSE_VRAM_CAP", "HELIX_DENSE_VRAM_CAP"),
            ("CYMATIX_DENSE_VRAM_RELEASE", "CYMATIX_DENSE_VRAM_RELEASE_EVERY"),
            ("CYMATIX_CRAWL_WINDOW", "CYMATIX_BFM_CRAWL_WINDOW"),
            ("HELIX_DENS_VRAM_CAP", "HELIX_DENSE_VRAM_CAP"),
            ("BGEM3_DEVICES", "BGEM3_DEVICE"),
        ],
    )
    def test_the_nearest_name_is_told(self, name: str, near: str) -> None:
        """Of our variables and of their aliases."""
        told = f"{name} is set, which is no variable of helix-crawl and changes nothing; did you mean {near}?"
        assert doubtful_variables({name: "1"}) == [told]

    def test_what_is_ours_or_empty_or_begins_otherwise_is_not_told(self) -> None:
        """Every variable that the package names is known."""
        package = ROOT / "helix_crawl_otel"
        pattern = re.compile(r"\b(?:HELIX_DENSE|HELIX_BFM_CRAWL|HELIX_CRAWL|CYMATIX_DENSE|CYMATIX_BFM_CRAWL)_[A-Z_]+\b")
        named = {name for path in package.rglob("*.py") for name in pattern.findall(path.read_text(encoding="utf-8"))}
        assert "HELIX_CRAWL_NOTIFY" in named
        other = {"HELIX_DENSE_X": " ", "HELIX_BFM_SPLADE": "1", "CYMATIX_DEVICE": "desk"}
        other |= {"CYMATIX_DENSE_MATRIX_DTYPE": "float16"}
        ours = dict.fromkeys(named - {"HELIX_DENSE_MATRIX_DTYPE"}, "1")
        assert doubtful_variables(ours | other) == []
        theirs = {"HELIX_DEVICE": "cpu", "CYMATIX_SHARE_DENSE_CODEC": "0", "CYMATIX_BFM_DENSE_BACKFILL": "1"}
        assert doubtful_variables(theirs | {"CYMATIX_ENCODER_URL": "http://127.0.0.1:1", "BGEM3": "1"}) == []
        (told,) = doubtful_variables({"HELIX_DENSE_MATRIX_DTYPE": "float16"})
        assert told.endswith("which the application reads and this package does not")

    def test_an_alias_that_says_another_thing_is_told(self) -> None:
        """With the one that holds; the same value twice is no doubt."""
        older, newer = "CYMATIX_BFM_CRAWL_FACTOR", "HELIX_BFM_CRAWL_FACTOR"
        told = f"{newer} is '4' and {older} is '6'; {newer} holds"
        assert doubtful_variables({older: "6", newer: "4"}) == [told]
        assert CrawlConfig.from_env({older: "6", newer: "4"}).factor == 4.0
        assert doubtful_variables({older: " 4", newer: "4.0 "}) == []
        assert doubtful_variables({"CYMATIX_BFM_CRAWL_ACTION": "CPU", "HELIX_BFM_CRAWL_ACTION": "cpu"}) == []
        assert len(doubtful_variables({older: "many", newer: "4"})) == 1

    def test_it_is_told_once(self, caplog: pytest.LogCaptureFixture) -> None:
        """In somebody's job, however often it asks."""
        for _ in range(3):
            CrawlConfig.from_env({"HELIX_BFM_CRAWL_WINDAW": "3"})
        assert [record.getMessage() for record in caplog.records if "WINDAW" in record.getMessage()] == [
            "[crawl-watchdog] HELIX_BFM_CRAWL_WINDAW is set, which is no variable of helix-crawl and changes nothing; "
            "did you mean HELIX_BFM_CRAWL_WINDOW?"
        ]

    def test_a_command_tells_it(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        """On standard error, and goes on."""
        monkeypatch.setenv("HELIX_BFM_CRAWL_FACTER", "3")
        assert main(["simulate", "--list"]) == 0
        assert "helix-crawl: warning: HELIX_BFM_CRAWL_FACTER is set" in capsys.readouterr().err


def test_the_release_of_the_app_is_read() -> None:
    """Under the name that its operators have in their files."""
    name = "HELIX_DENSE_VRAM_RELEASE_EVERY"
    assert read_knob(name, {"CYMATIX_DENSE_VRAM_RELEASE_EVERY": "64"}) == 64
    assert read_knob(name, {"CYMATIX_DENSE_VRAM_RELEASE_EVERY": "64", name: "0"}) == 0
