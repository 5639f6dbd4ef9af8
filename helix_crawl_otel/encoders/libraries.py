"""Imports the libraries of models, late, and keeps them quiet."""

from __future__ import annotations

import importlib
import logging
from typing import Any

from helix_crawl_otel.encoders.base import ModelError, is_out_of_memory

__all__ = ["first_line", "imported", "quiet"]

_CHATTERING = ("filelock", "httpx", "huggingface_hub", "sentence_transformers", "transformers", "urllib3")


def imported(module: str, extra: str) -> Any:
    """A library.

    Args:
        module: Its name.
        extra: Of this package, that brings it.

    Raises:
        ModelError: It is not installed, or broken.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        if is_out_of_memory(error):
            raise
        raise ModelError(
            f"{module} cannot be imported ({error}); `pip install 'helix-crawl-otel[{extra}]'` brings it"
        ) from None


def quiet() -> None:
    """No bars and no advice in a worker's log."""
    for name in _CHATTERING:
        logging.getLogger(name).setLevel(logging.ERROR)
    chatter = imported("transformers.utils.logging", "models")
    chatter.set_verbosity_error()
    chatter.disable_progress_bar()


def first_line(error: Exception) -> str:
    """What an error of a library says, without the page of advice that may follow."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
