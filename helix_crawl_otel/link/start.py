"""Starts a module of this package with the path that its supervisor hands over, and nothing else on it.

    python start.py MODULE SUPERVISOR_PID FOLDER...

Run by its path: `python -m` would look into the current folder first, and that folder may be what a build reads. The
package is the one that this file lies in, wherever that is, so that its parent folder need not be on the path.

Source: DESIGN.md, section 7.
"""

import sys

__all__ = ["main"]

PACKAGE = "helix_crawl_otel"


def main(module: str, supervisor_pid: str, folders: list[str]) -> int:
    """Run the module's `main`. Returns its exit code."""
    # First of all: the folder of this file is on the path by now, and its `numbers` is not Python's.
    sys.path[:] = folders
    sys.argv[1:] = [supervisor_pid]
    from importlib import import_module
    from importlib.util import module_from_spec, spec_from_file_location
    from pathlib import Path

    folder = Path(__file__).parents[1]
    spec = spec_from_file_location(PACKAGE, folder / "__init__.py", submodule_search_locations=[str(folder)])
    if spec is None or spec.loader is None:
        raise ImportError(f"{folder} is no package")
    package = sys.modules[PACKAGE] = module_from_spec(spec)
    spec.loader.exec_module(package)
    code: int = import_module(module).main()
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2], sys.argv[3:]))
