"""Reads a metrics endpoint again and again while a run lasts."""

from __future__ import annotations

import threading
import urllib.request
from http.client import HTTPException

from prometheus_client.parser import text_string_to_metric_families

__all__ = ["Scraper", "Series"]

ANSWER_SECONDS = 45.0
"""For a machine that is busy with something else. An endpoint that waits for a worker that hangs never answers."""

PAUSE_SECONDS = 0.05

Series = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def parse(text: str) -> Series:
    """Every sample of an exposition, by name and labels."""
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


class Scraper:
    """A thread that scrapes until the endpoint is gone.

    Args:
        url: Of the endpoint.

    Attributes:
        scrapes: What was read, in order.
        last: The newest exposition as text.
        problems: Scrapes that were not answered in time; the end of the endpoint is none.
    """

    def __init__(self, url: str) -> None:
        self.scrapes: list[Series] = []
        self.last = ""
        self.problems: list[str] = []
        self._url = url if url.endswith("/metrics") else url.rstrip("/") + "/metrics"
        self._stopping = threading.Event()
        self._turn = threading.Condition()  # guards the two
        self._begun = self._answered = 0
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End it."""
        self._stopping.set()
        self._thread.join(ANSWER_SECONDS + 5)

    def scrape(self) -> None:
        """Wait until an answer is there to a question that is put from now on: what has happened is in it."""
        with self._turn:
            wanted = self._begun + 1
            assert self._turn.wait_for(lambda: self._answered >= wanted, ANSWER_SECONDS), "the endpoint does not answer"

    def fallen(self) -> list[str]:
        """Counters that were lower than before, or gone."""
        found = []
        for before, after in zip(self.scrapes, self.scrapes[1:], strict=False):
            for key, value in before.items():
                if key[0].endswith(("_total", "_count", "_bucket")) and after.get(key, -1.0) < value:
                    found.append(f"{key}: {value} then {after.get(key)}")
        return found

    def value(self, name: str, **labels: str) -> float:
        """The sum of the last scrape's samples of this name with these labels."""
        wanted = set(labels.items())
        return sum(v for (found, own), v in self.scrapes[-1].items() if found == name and wanted <= set(own))

    def _run(self) -> None:
        while not self._stopping.wait(PAUSE_SECONDS):
            with self._turn:
                self._begun += 1
            try:
                with urllib.request.urlopen(self._url, timeout=ANSWER_SECONDS) as answer:
                    text = answer.read().decode()
            except TimeoutError as error:
                self.problems.append(repr(error))
            except (OSError, HTTPException) as error:  # also one that ends in the middle of an answer
                if "timed out" in str(error):
                    self.problems.append(repr(error))
                elif self.scrapes:
                    return  # the run has ended
            else:
                scrape = parse(text)
                if self.scrapes and not any(name.startswith("helix_dense_") for name, _ in scrape):
                    return  # of a process that is ending; in the middle of a run the next `scrape` would tell
                self.last = text
                self.scrapes.append(scrape)
                with self._turn:
                    self._answered = self._begun
                    self._turn.notify_all()
