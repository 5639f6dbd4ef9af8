"""Python imports this at its start, where `helix-crawl run --instrument` has put its folder first on PYTHONPATH.

What would have been imported instead of it is imported as well, and stands where it would have stood.
"""

import sys


def _instrument() -> None:
    from importlib import import_module
    from logging import getLogger
    from os.path import abspath, dirname

    own = dirname(abspath(__file__))
    sys.path[:] = [entry for entry in sys.path if abspath(entry or ".") != own]
    this = sys.modules.pop("sitecustomize", None)
    try:
        import_module("sitecustomize")
    except ModuleNotFoundError as error:
        if error.name != "sitecustomize":
            raise
        if this is not None:
            sys.modules["sitecustomize"] = this
    finally:
        try:
            from helix_crawl_otel.instrument.instrumentor import HelixCrawlInstrumentor

            instrumentor = HelixCrawlInstrumentor()
            if not instrumentor.is_instrumented_by_opentelemetry:
                instrumentor.instrument()
        except Exception as error:  # noqa: BLE001 - the job runs all the same
            getLogger("helix_crawl_otel").warning(
                "the job runs, and is not watched: %s: %s; `pip install 'helix-crawl-otel[instrument]'` into its "
                "Python makes it possible",
                type(error).__name__,
                error,
            )


_instrument()
