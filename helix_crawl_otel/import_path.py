"""Keeps files of the current folder from being imported: by this program, and by the workers that it starts.

`python -m` puts the current folder before the standard library, and so does an empty or a relative entry of PYTHONPATH.
Whoever builds a folder stands in it as a rule, and a `queue.py` or `torch.py` in it would run with their rights. What
stands behind the standard library belongs to the installation and stays, as do absolute entries of PYTHONPATH.

For a process that is ours alone: a job that uses `CrawlWatch` keeps its path. What Python itself imports before our
first line runs cannot be helped here: with `python -m` its own `runpy`, with such a PYTHONPATH a `sitecustomize`.

Not even `from __future__ import annotations` stands here, nor in what is imported before the path is clean: that is an
import as well. `os` is there since Python started.

Source: DESIGN.md, section 7; `site` and `sys.path` in Python's library reference. Tried on Python 3.10 to 3.13.
"""

import os
import sys

__all__ = ["folders_for_worker", "instrumented_variable", "leave_current_folder", "variable_for_worker"]

VARIABLE = "PYTHONPATH"

INSTRUMENTS = (
    os.path.join("opentelemetry", "instrumentation", "auto_instrumentation"),
    os.path.join("helix_crawl_otel", "instrument", "site"),
)
"""What `opentelemetry-instrument` puts before the path, whose `sitecustomize` gives a process providers and exporters;
and what `helix-crawl run --instrument` puts there, whose own has it watched."""


def leave_current_folder() -> None:
    """Take the current folder out of this process's path, for good. Called before anything else is imported."""
    front, own = _split(sys.path)
    sys.path[:] = own
    from helix_crawl_otel.config import environment  # the environment has one reader, and it needs the standard library

    sys.path[:] = _clean(front, own, environment().get(VARIABLE, ""))


def folders_for_worker(variable: str) -> list[str]:
    """Where a worker looks for modules: where we do, without the current folder. Our own path is left as it is.

    Args:
        variable: PYTHONPATH, empty when it is not set.
    """
    return _clean(*_split(sys.path), variable)


def variable_for_worker(variable: str) -> str:
    """PYTHONPATH of a worker: `site` looks there for a `sitecustomize` before the first line of any program runs.

    Args:
        variable: Ours.

    Returns:
        Its absolute entries without the current folder; empty when none is left. Nor is a worker instrumented where we
        are: the supervisor exports, and each worker would have exporters of its own with nothing to send.
    """
    here = _here()
    kept = [entry for entry in variable.split(os.pathsep) if os.path.isabs(entry) and not _is_one_of(entry, here)]
    return os.pathsep.join(entry for entry in kept if not os.path.normpath(entry).endswith(INSTRUMENTS))


def instrumented_variable(variable: str) -> str:
    """PYTHONPATH of a job that is to be watched without a line of its own: as it is, with our `sitecustomize` first."""
    folder = os.path.join(os.path.dirname(os.path.abspath(__file__)), "instrument", "site")
    return os.pathsep.join([folder, variable] if variable else [folder])


def _clean(front: list[str], own: list[str], variable: str) -> list[str]:
    here = _here()
    relative = [entry for entry in variable.split(os.pathsep) if entry and not os.path.isabs(entry)]
    # `site` has made them absolute, so that they can no longer be told by their look.
    left_out = here + [os.path.abspath(entry) for entry in relative if here]
    kept = [entry for entry in front if os.path.isabs(entry) and not _is_one_of(entry, left_out)]
    # Standing in site-packages, an empty entry of PYTHONPATH is all that is left of it: Python keeps the first of two.
    packages = [entry for entry in front if entry not in kept and _is_one_of(entry, _site_packages())]
    return [*kept, *own, *(entry for entry in packages if entry not in own)]


def _split(path: list[str]) -> tuple[list[str], list[str]]:
    """What stands before the standard library, and what is the installation's."""
    library = os.path.dirname(os.__file__)
    archive = f"python{sys.version_info[0]}{sys.version_info[1]}"
    for index, entry in enumerate(path):
        name = os.path.basename(entry)
        if (name.startswith(archive) and name.endswith(".zip")) or _is_one_of(entry, [library]):
            return path[:index], [one for one in path[index:] if os.path.isabs(one)]
    here = _here()
    return [], [entry for entry in path if os.path.isabs(entry) and not _is_one_of(entry, here)]


def _here() -> list[str]:
    """The current folder; nothing when it is gone, for then nothing can be imported from it."""
    try:
        return [os.getcwd()]
    except OSError:
        return []


def _site_packages() -> list[str]:
    site = sys.modules.get("site")  # with -S there is none, and nothing of it on the path
    return [*site.getsitepackages(), site.getusersitepackages()] if site is not None else []


def _is_one_of(entry: str, folders: list[str]) -> bool:
    return any(_is_same(entry, folder) for folder in folders)


def _is_same(one: str, other: str) -> bool:
    """Whether two paths mean the same place, by whatever name; what is not there yet is told by its name."""
    if os.path.normcase(os.path.normpath(one)) == os.path.normcase(os.path.normpath(other)):
        return True
    try:
        return os.path.samefile(one, other)
    except (OSError, ValueError):
        return False
