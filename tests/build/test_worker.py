"""What a worker says before it ends: one word, for the supervisor acts on each."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from helix_crawl_otel.build import worker
from helix_crawl_otel.encoders.base import ModelError
from helix_crawl_otel.exit_codes import NEVER
from helix_crawl_otel.link import messages
from helix_crawl_otel.link.messages import Assignment, Message, WorkerSettings


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (ModelError("it is damaged"), NEVER, messages.CannotStart("it is damaged")),
        (ValueError("odd"), None, messages.LastWords("its worker failed: ValueError: odd", is_device=False)),
    ],
    ids=["a model", "anything else"],
)
def test_an_error_has_one_word(
    monkeypatch: pytest.MonkeyPatch, error: Exception, code: int | None, said: Message
) -> None:
    """A model that cannot ever be loaded is no crash, however long its worker takes to end after it has said so."""

    def fail(*_: Any, **__: Any) -> None:
        raise error

    sent: list[Message] = []
    monkeypatch.setattr(worker, "work_on", fail)
    settings = WorkerSettings("hashing", "cpu", 64, None, 0, [], 1, "cpu", 1.0)
    one = worker._Worker(SimpleNamespace(send=sent.append, clock_rate=1.0), settings)  # type: ignore[arg-type]  # all that it uses
    if code is None:
        with pytest.raises(type(error)):
            one.run(Assignment("a", "a.db", 1))
    else:
        assert one.run(Assignment("a", "a.db", 1)) == code
    assert sent == [said]
