"""Promises of the knobs as options of a command. Source: DESIGN.md, section 3.3."""

from __future__ import annotations

import argparse

import pytest

from helix_crawl_otel.config import KNOBS, ConfigError, CrawlConfig, add_options, config_from_options, option_values


def options(*argv: str, variables: tuple[str, ...] | None = None) -> dict[str, str]:
    """What a command with the knobs' options makes of its arguments."""
    parser = argparse.ArgumentParser(allow_abbrev=False)
    add_options(parser, variables)
    return option_values(parser.parse_args(argv))


def test_defaults() -> None:
    """Nothing given is nothing changed."""
    assert config_from_options(options(), {}) == CrawlConfig()


def test_an_option_wins_over_the_environment_and_the_environment_over_the_default() -> None:
    """Three sources, one order."""
    environ = {"HELIX_BFM_CRAWL_FACTOR": "4", "HELIX_BFM_CRAWL_WINDOW": "6"}
    config = config_from_options(options("--factor", "3", "--inflight", "off"), environ)
    assert config == CrawlConfig(factor=3.0, window=6, inflight=False)


def test_every_knob_of_the_rule_is_an_option() -> None:
    """All eight reach the config."""
    argv = ["--factor=2", "--window=3", "--action=CPU", "--vram=0.5", "--ema-alpha=1", "--warmup=0", "--inflight=no"]
    argv.append("--shared=on")
    assert config_from_options(options(*argv), {}) == CrawlConfig(2.0, 3, "cpu", 0.5, 1.0, 0, False, True)


def test_a_bad_option_is_named_as_an_option() -> None:
    """The message names what was typed, not the variable; an empty option is a bad one."""
    with pytest.raises(ConfigError, match=r"^--window is '8\.5'; accepted: an integer >= 1$"):
        config_from_options(options("--window", "8.5"), {})
    with pytest.raises(ConfigError, match=r"^--factor is ''; accepted: a number > 1$"):
        config_from_options(options("--factor", ""), {})
    with pytest.raises(ConfigError, match=r"^--factor is '-1'; accepted"):
        config_from_options(options("--factor", "-1"), {})


def test_a_bad_variable_is_refused_unless_an_option_overrides_it() -> None:
    """The command line is strict about what it uses, and only about that."""
    environ = {"HELIX_BFM_CRAWL_WINDOW": "many"}
    with pytest.raises(ConfigError, match="HELIX_BFM_CRAWL_WINDOW is 'many'"):
        config_from_options(options(), environ)
    assert config_from_options(options("--window", "5"), environ).window == 5


def test_other_knobs_can_be_offered() -> None:
    """A command that needs the endpoint's knobs offers those."""
    port = ("OTEL_EXPORTER_PROMETHEUS_PORT",)
    assert options("--metrics-port", "9000", variables=port) == {"OTEL_EXPORTER_PROMETHEUS_PORT": "9000"}


def test_help_teaches(capsys: pytest.CaptureFixture[str]) -> None:
    """Each option is shown with its meaning, what is accepted, its variable and its default."""
    parser = argparse.ArgumentParser()
    add_options(parser, tuple(row.variable for row in KNOBS))
    parser.print_help()
    text = " ".join(capsys.readouterr().out.split())
    for row in KNOBS:
        assert f"{row.option} " in text
        assert f"{row.accepted.text} ({' or '.join((row.variable, *row.aliases))}, default {row.shown_default})" in text
