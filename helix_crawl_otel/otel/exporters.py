"""What the standard `OTEL_*` variables ask a process to export and where to, for a process that has no providers.

The exporters are entry points, as they are to `opentelemetry-instrument`, so one that another package brings can be
named as well. Each reads the rest of its variables by itself: endpoint, headers, certificates, interval, temporality.
A collector that is down or slow holds nobody up: exporters work in threads of their own, and their end has a bound.

Source: OpenTelemetry, "Environment Variable Specification" and "OTLP Exporter Configuration".
"""

from __future__ import annotations

import atexit
import logging
import math
import string
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from importlib.metadata import entry_points
from typing import IO, Any
from urllib.parse import SplitResult, unquote, urlsplit

from opentelemetry.sdk.environment_variables import OTEL_METRIC_EXPORT_INTERVAL, OTEL_SDK_DISABLED

from helix_crawl_otel.config import ConfigError
from helix_crawl_otel.formats import duration, fitted, without_secrets
from helix_crawl_otel.logs import logger
from helix_crawl_otel.otel.resource import run_resource

__all__ = ["END_SECONDS", "Exporters", "Exporting", "present_provider", "read_exporters"]

END_SECONDS = 5.0
"""What a run gives its exporters at its end, all together, to send what they have. The process ends then."""

LOOK_SECONDS = 0.05

BEGIN_SECONDS = 0.2
"""Until each has begun to shut down, whatever is left: the SDK does not wait for one that has."""

PROMETHEUS, OTLP, CONSOLE, NONE = "prometheus", "otlp", "console", "none"

PROTOCOLS = {"grpc": "otlp_proto_grpc", "http/protobuf": "otlp_proto_http"}
"""The entry point of each."""

PORTS = {"grpc": 4317, "http/protobuf": 4318}

MOST_MILLISECONDS = 2**31 - 1
"""Of an interval, 24 days: the SDK's thread cannot wait for much more, and ends with a traceback."""

MOST_SAID = 240
"""Letters of what OpenTelemetry logs: some of it holds an exception, with all its causes."""

LONG_WORD = 6
"""Letters of a part of a header from which on it may be a secret by itself."""

_MODULES = {"meter": "metrics", "tracer": "trace", "logger": "_logs"}


@dataclass(frozen=True)
class Exporters:
    """What is asked for, checked.

    Args:
        metrics: Names, `prometheus` for our endpoint among them.
        logs: Names; none by default.
        traces: The same.
        environ: Where they were read.
        is_disabled: `OTEL_SDK_DISABLED`: nothing at all is exported.
    """

    metrics: tuple[str, ...]
    logs: tuple[str, ...]
    traces: tuple[str, ...]
    environ: Mapping[str, str]
    is_disabled: bool = False

    def readers(self, out: IO[str]) -> Callable[[], list[Any]]:
        """Of a meter provider, for all exporters of metrics but the endpoint.

        Args:
            out: Where `console` writes.

        Returns:
            What makes them: to be called when the provider is made, since they begin at once.

        Raises:
            ConfigError: One of them refuses its variables.
        """
        from opentelemetry.sdk.metrics.export import MetricReader, PeriodicExportingMetricReader

        made = [self._made("metrics", name, out) for name in self.metrics if name != PROMETHEUS]
        return lambda: [one if isinstance(one, MetricReader) else PeriodicExportingMetricReader(one) for one in made]

    def tracer_provider(self, out: IO[str]) -> Any:
        """Makes one, `None` where no spans are asked for. Arguments and errors: see `readers`."""
        if not self.traces:
            return None
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        provider = TracerProvider(resource=run_resource(), shutdown_on_exit=False)
        for name in self.traces:
            provider.add_span_processor(BatchSpanProcessor(self._made("traces", name, out)))
        return provider

    def logger_provider(self, out: IO[str]) -> Any:
        """Makes one, `None` where no log records are asked for. Arguments and errors: see `readers`."""
        if not self.logs:
            return None
        from opentelemetry.sdk._logs import LoggerProvider
        from opentelemetry.sdk._logs.export import BatchLogRecordProcessor

        provider = LoggerProvider(resource=run_resource(), shutdown_on_exit=False)
        for name in self.logs:
            provider.add_log_record_processor(BatchLogRecordProcessor(self._made("logs", name, out)))
        return provider

    def sentences(self, present: Mapping[str, Any]) -> list[str]:
        """What is sent where, for people: a host, and nothing that may be a secret.

        Args:
            present: Providers that the process has already, by `meter`, `tracer` and `logger`; `None` for those that
                it has not.
        """
        if self.is_disabled:
            return [f"{OTEL_SDK_DISABLED} is true: nothing is served or sent; the job is watched all the same"]
        found = []
        if theirs := [type(one).__name__ for one in present.values() if one is not None]:
            what = ": it exports the metrics, and no endpoint is served" if present["meter"] is not None else ""
            found.append(f"the provider that is set already is used ({', '.join(theirs)}){what}")
        for kind, signal, names in (
            ("meter", "metrics", self.metrics),
            ("logger", "logs", self.logs),
            ("tracer", "traces", self.traces),
        ):
            if present[kind] is None:
                found += [f"{signal}: by {name}{self._where(signal, name)}" for name in names if name != PROMETHEUS]
        return found

    def _where(self, signal: str, name: str) -> str:
        if name != OTLP:
            return ""
        protocol, target = _protocol(signal, self.environ), _target(signal, self.environ)
        host = _split(target).netloc.rpartition("@")[2]
        every = f", every {duration(_interval(self.environ) / 1000)}" if signal == "metrics" else ""
        return f" ({protocol}) to {host or target or f'localhost:{PORTS[protocol]}'}{every}"

    def _made(self, signal: str, name: str, out: IO[str]) -> Any:
        variable = _variable(signal)
        entry = _entry(signal, name, self.environ)
        found = next(iter(entry_points(group=f"opentelemetry_{signal}_exporter", name=entry)), None)
        try:
            if found is None:
                raise ImportError(entry)
            kind = found.load()
        except ImportError as error:
            raise _not_installed(variable, name, signal, self.environ) from error
        try:
            return kind(out=out) if name == CONSOLE else kind()
        except Exception as error:  # noqa: BLE001 - whatever it is, the operator's variables are what it does not like
            told = scrubbed(" ".join(str(error).split()), self.environ)
            raise ConfigError(
                f"{variable}={name}: the exporter cannot be set up: {told or type(error).__name__}"
            ) from None


def read_exporters(environ: Mapping[str, str]) -> Exporters:
    """What the environment asks for.

    Raises:
        ConfigError: A name, a protocol, an endpoint or an interval that is none, or an exporter that is not installed.
    """
    if environ.get(OTEL_SDK_DISABLED, "").strip().lower() == "true":
        return Exporters((), (), (), environ, is_disabled=True)
    metrics = _names("metrics", environ, (PROMETHEUS,))
    if metrics not in ((), (PROMETHEUS,)):
        _interval(environ)
    return Exporters(metrics, _names("logs", environ), _names("traces", environ), environ)


def present_provider(kind: str, environ: Mapping[str, str]) -> Any:
    """The provider that this process has already: set by its program, by `opentelemetry-instrument`, or by a variable.

    Args:
        kind: `meter`, `tracer` or `logger`.
        environ: Of this process.

    Returns:
        It; `None` where there is none.

    Raises:
        ConfigError: `OTEL_PYTHON_METER_PROVIDER`, or its like, names none.
    """
    from importlib import import_module

    variable = f"OTEL_PYTHON_{kind.upper()}_PROVIDER"
    if (name := environ.get(variable)) is not None:
        known = sorted({each.name for each in entry_points(group=f"opentelemetry_{kind}_provider")})
        if name not in known:
            raise ConfigError(f"{variable} is {name!r}; accepted: {', '.join(known)}")
    api = import_module(f"opentelemetry.{_MODULES[kind]}")
    found = getattr(api, f"get_{kind}_provider")()
    is_proxy = type(found).__module__.startswith("opentelemetry.") and "Proxy" in type(found).__name__
    return None if is_proxy else found


class Exporting:
    """What exports while a run lasts, and how it ends. From now on the SDK's own log is told without secrets.

    Args:
        exporters: For what is told of it.
        present: Providers that the process had before: they are flushed with the run, and shut down with the process,
            which then ends in bounded time.

    Attributes:
        own: Readers and providers that were made for this run: shut down with it, by which they send what they have.

    Threads: the main thread's.
    """

    def __init__(self, exporters: Exporters, present: Sequence[Any]) -> None:
        self.own: list[Any] = []
        self._present = list(present)
        self._log = _ToldOnce(exporters.environ)
        _ending.add(present)

    def close(self, hurries: Callable[[], bool] = lambda: False) -> None:
        """Send what there is, within `END_SECONDS`. Called once.

        Args:
            hurries: Whether the operator wants the end at once; asked again and again.
        """
        steps = [*(partial(_shutdown, one) for one in self.own), *(partial(_flush, one) for one in self._present)]
        self.own = []
        left = _wait_for(steps, hurries)
        if self._present:
            _ending.seconds = 0.0 if left is None else left
        elif left is not None:
            self._log.close()  # else there are threads that go on, and have something to say


def _names(signal: str, environ: Mapping[str, str], default: tuple[str, ...] = ()) -> tuple[str, ...]:
    variable = _variable(signal)
    text = environ.get(variable, "").strip()
    names = tuple(dict.fromkeys(name.strip().lower() for name in text.split(",") if name.strip()))
    if not names:
        return default
    if names == (NONE,):
        return ()
    ours = (OTLP, PROMETHEUS, CONSOLE) if signal == "metrics" else (OTLP, CONSOLE)
    for name in names:
        if name not in ours and not entry_points(group=f"opentelemetry_{signal}_exporter", name=name):
            accepted = f"{', '.join(ours)}, or several of them with commas between, or {NONE} alone"
            raise ConfigError(
                f"{variable} is {text!r}; {name!r} is no exporter that is installed; accepted: {accepted}"
            )
        entry = _entry(signal, name, environ)
        if entry != PROMETHEUS and not entry_points(group=f"opentelemetry_{signal}_exporter", name=entry):
            raise _not_installed(variable, name, signal, environ)
        if name == OTLP:
            _check_target(signal, environ)
    return names


def _entry(signal: str, name: str, environ: Mapping[str, str]) -> str:
    return PROTOCOLS[_protocol(signal, environ)] if name == OTLP else name


def _protocol(signal: str, environ: Mapping[str, str]) -> str:
    """Where nobody says one it is the specification's, but for an endpoint with the port that gRPC has."""
    names = (f"OTEL_EXPORTER_OTLP_{signal.upper()}_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
    for variable in names:
        if text := environ.get(variable, "").strip():
            if text not in PROTOCOLS:
                raise ConfigError(f"{variable} is {text!r}; accepted: {', '.join(PROTOCOLS)}")
            return text
    return "grpc" if _target(signal, environ).rstrip("/").endswith(f":{PORTS['grpc']}") else "http/protobuf"


def _target(signal: str, environ: Mapping[str, str]) -> str:
    """The endpoint as it was given, empty where none was."""
    named = environ.get(f"OTEL_EXPORTER_OTLP_{signal.upper()}_ENDPOINT", "").strip()
    return named or environ.get("OTEL_EXPORTER_OTLP_ENDPOINT", "").strip()


def _split(target: str) -> SplitResult:
    """Its parts; gRPC's may lack a scheme."""
    return urlsplit(target if "//" in target else f"//{target}")


def _check_target(signal: str, environ: Mapping[str, str]) -> None:
    """An address that the exporter would fail at all night. It is not shown: what is no address may be all secret."""
    target, protocol = _target(signal, environ), _protocol(signal, environ)
    if not target:
        return
    named = f"OTEL_EXPORTER_OTLP_{signal.upper()}_ENDPOINT"
    variable = named if environ.get(named, "").strip() else "OTEL_EXPORTER_OTLP_ENDPOINT"
    try:
        url = _split(target)
        is_good = protocol == "grpc" or (url.scheme in ("http", "https") and bool(url.hostname) and url.port != 0)
    except ValueError:  # a bracket, or a port that is none
        is_good = False
    if not is_good or set(target) & set(string.whitespace):
        example = f"http://localhost:{PORTS[protocol]}"
        raise ConfigError(
            f"{variable} is no address for {protocol}; accepted: a URL with its scheme, such as {example}"
        )


def _variable(signal: str) -> str:
    return f"OTEL_{signal.upper()}_EXPORTER"


def _not_installed(variable: str, name: str, signal: str, environ: Mapping[str, str]) -> ConfigError:
    what = f"{name} ({_protocol(signal, environ)})" if name == OTLP else name
    remedy = "pip install 'helix-crawl-otel[otlp]'" if name == OTLP else "install the package that brings it"
    return ConfigError(f"{variable} asks for {what}, and its exporter is not installed: {remedy}")


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def _interval(environ: Mapping[str, str]) -> float:
    text = environ.get(OTEL_METRIC_EXPORT_INTERVAL, "").strip()
    found = _number(text) if text else 60_000
    if not 1 <= found <= MOST_MILLISECONDS:
        accepted = f"milliseconds, a number from 1 to {MOST_MILLISECONDS:,}"
        raise ConfigError(f"{OTEL_METRIC_EXPORT_INTERVAL} is {text!r}; accepted: {accepted}")
    return found


# -- the end -----------------------------------------------------------------------------------------------------------


def _shutdown(one: Any) -> None:
    """What it has is sent first. Not everyone's takes a time, and some take the double of it."""
    try:
        one.shutdown(timeout_millis=END_SECONDS * 1000)
    except TypeError:
        one.shutdown()


def _flush(one: Any) -> None:
    if (flush := getattr(one, "force_flush", None)) is not None:
        flush(timeout_millis=int(END_SECONDS * 1000))


def _wait_for(steps: Sequence[Callable[[], None]], hurries: Callable[[], bool]) -> float | None:
    """Do them side by side. Returns what is left of the time when all are done, `None` where they are not."""

    def tried(step: Callable[[], None]) -> None:
        try:
            step()
        except Exception:
            logger.debug("an exporter has failed at its end", exc_info=True)

    until = time.monotonic() + END_SECONDS
    if steps and hurries():
        return None
    threads = [threading.Thread(target=tried, args=(step,), daemon=True) for step in steps]
    for thread in threads:
        thread.start()
    for thread in threads:
        while thread.is_alive():  # by turns: on Windows no interrupt ends a wait
            if time.monotonic() >= until or hurries():
                return None
            thread.join(LOOK_SECONDS)
    return max(0.0, until - time.monotonic())


class _Ending:
    """Of providers that this process had before: at the end of a process the SDK waits up to 30 s for each, so they are
    shut down just before, side by side, within what a run has left of its time.

    Attributes:
        seconds: What is left.
    """

    def __init__(self) -> None:
        self.seconds = END_SECONDS
        self._threads: dict[int, threading.Thread] = {}  # by provider
        self._is_over = threading.Event()

    def add(self, providers: Iterable[Any]) -> None:
        """Shut them down then."""
        for one in providers:
            if id(one) not in self._threads:
                if not self._threads:
                    atexit.register(self._wait)
                # Started now: at the end of an interpreter no thread can be.
                thread = threading.Thread(target=self._end, args=(one,), name="helix-crawl-end", daemon=True)
                self._threads[id(one)] = thread
                thread.start()

    def _end(self, provider: Any) -> None:
        self._is_over.wait()
        with suppress(Exception):
            _shutdown(provider)

    def _wait(self) -> None:
        logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)  # the SDK's own attempt comes second, and says so
        self._is_over.set()
        until = time.monotonic() + max(self.seconds, BEGIN_SECONDS)
        for thread in self._threads.values():
            thread.join(max(0.0, until - time.monotonic()))


_ending = _Ending()


# -- what they say -----------------------------------------------------------------------------------------------------


def scrubbed(text: str, environ: Mapping[str, str]) -> str:
    """A text without what the variables of headers hold, and without more of a URL than its host."""
    secrets: set[str] = set()
    for name, value in environ.items():
        if name.startswith("OTEL_EXPORTER_OTLP") and name.endswith("HEADERS"):
            for pair in value.split(","):
                _, equals, kept = pair.partition("=")
                secret = (kept if equals else pair).strip()  # one that is no pair may be all secret
                secrets |= {secret, unquote(secret)}
                secrets |= {word for word in unquote(secret).split() if len(word) >= LONG_WORD}
    for secret in sorted(secrets - {""}, key=len, reverse=True):
        text = text.replace(secret, "...")
    return " ".join(without_secrets(text.split(" ")))


class _ToldOnce(logging.Handler):
    """In place of the handlers above it, for what OpenTelemetry logs: each kind is told once, without secrets. An
    exporter whose collector is down says so at every try, all night.

    Args:
        environ: Whose headers are secrets.
    """

    def __init__(self, environ: Mapping[str, str]) -> None:
        super().__init__()
        self._environ = environ
        self._told: set[tuple[str, str]] = set()
        self._logger = logging.getLogger("opentelemetry")
        self._propagated = self._logger.propagate
        self._logger.addHandler(self)
        self._logger.propagate = False

    def emit(self, record: logging.LogRecord) -> None:
        """Tell it, if it is the first of its kind."""
        kind = record.name, str(record.msg)
        if kind in self._told:
            return
        self._told.add(kind)
        said = fitted(scrubbed(record.getMessage(), self._environ), MOST_SAID).rstrip(". ")
        logger.log(min(record.levelno, logging.WARNING), "OpenTelemetry: %s; told once, the job needs none of it", said)

    def close(self) -> None:
        """The handlers above are heard again."""
        self._logger.removeHandler(self)
        self._logger.propagate = self._propagated
        super().close()
