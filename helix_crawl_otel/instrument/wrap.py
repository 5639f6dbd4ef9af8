"""For authors who want one line of code: a model that is watched, a callback of a `Trainer`."""

from __future__ import annotations

from typing import Any, TypeVar

from helix_crawl_otel.instrument.calls import CallWatcher, ShardSource, current_call
from helix_crawl_otel.instrument.patches import add_instance, install_for

__all__ = ["HelixCrawlCallback", "wrap"]

Model = TypeVar("Model")


def wrap(watch: ShardSource, model: Model, exit_to_recycle: bool | None = None) -> Model:
    """See `CrawlWatch.wrap`."""
    add_instance(model, CallWatcher(lambda: watch, exit_to_recycle))
    return model


class HelixCrawlCallback:
    """Watches the steps of a `transformers.Trainer`: `Trainer(..., callbacks=[HelixCrawlCallback(watch)])`.

    Each `training_step` and `prediction_step` is a batch: its rows, and its tokens with padding. After a checkpoint was
    saved the process may be ended; where that is asked for, the next step saves one.

    Args:
        watch: The `CrawlWatch` that watches.
        exit_to_recycle: As for `CrawlWatch.shard`: the job resumes from its checkpoint (`resume_from_checkpoint`).

    Threads: the Trainer's.
    """

    def __init__(self, watch: ShardSource, exit_to_recycle: bool | None = None) -> None:
        self.helix_crawl_watcher = CallWatcher(lambda: watch, exit_to_recycle)
        install_for("transformers.trainer")

    def on_step_end(self, args: Any, state: Any, control: Any, **more: Any) -> Any:
        """Have a checkpoint saved before the process ends."""
        call = current_call()
        if call is not None and call.is_to_leave():
            control.should_save = True
        return control

    def on_save(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        """A checkpoint is there.

        Raises:
            PauseRequested: The process has to end.
        """
        call = current_call()
        if call is not None:
            call.commit()

    def __getattr__(self, name: str) -> Any:
        """Nothing happens at the other events."""
        if name.startswith("on_"):
            return _nothing
        raise AttributeError(name)


def _nothing(*args: Any, **more: Any) -> None:
    """See `HelixCrawlCallback`."""
