"""The house as its code shows it: modules, what each imports, what each defines, what stands twice."""

from __future__ import annotations

import ast
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.rules.checks import imported_names

__all__ = ["House", "Module"]

RUN = 11
"""Lines in a row that may not stand twice."""


@dataclass(frozen=True)
class Module:
    """One file.

    Args:
        name: With dots, from the package on.
        lines: Of the file.
        imports: Modules of the package that it imports, also late and for the type checker only.
        classes: That it defines and whose names are public.
        text: Its lines that hold code, without what stands before and behind.
    """

    name: str
    lines: int
    imports: frozenset[str]
    classes: tuple[str, ...]
    text: tuple[str, ...]


class House:
    """A package.

    Args:
        package: Its folder.
    """

    def __init__(self, package: Path) -> None:
        self.package = package
        paths = {_dotted(package, path): path for path in sorted(package.rglob("*.py"))}
        self.modules = {name: _module(name, path, frozenset(paths)) for name, path in paths.items()}

    def rooms(self) -> Mapping[str, int]:
        """How many modules each folder holds, without its `__init__`."""
        return Counter(str(path.parent.relative_to(self.package.parent)) for path in self._files())

    def lines(self) -> int:
        """Of all files."""
        return sum(module.lines for module in self.modules.values())

    def circles(self) -> list[list[str]]:
        """Modules that import each other, be it by way of others: one list a circle."""
        reach = {name: self._reached(name) for name in self.modules}
        circles = {tuple(sorted(other for other in reach[name] if name in reach[other])) for name in reach}
        return [list(circle) for circle in sorted(circles) if len(circle) > 1]

    def classes_twice(self) -> dict[str, list[str]]:
        """Public class names that more than one module defines, with the modules."""
        found: dict[str, list[str]] = defaultdict(list)
        for module in self.modules.values():
            for name in module.classes:
                found[name].append(module.name)
        return {name: homes for name, homes in sorted(found.items()) if len(homes) > 1}

    def torn_off(self, most_lines: int) -> dict[str, str]:
        """Small modules that a single other one imports, by name, with that one."""
        users: dict[str, list[str]] = defaultdict(list)
        for module in self.modules.values():
            for name in module.imports:
                users[name].append(module.name)
        files = {_dotted(self.package, path) for path in self._files()}
        return {
            name: users[name][0]
            for name, module in sorted(self.modules.items())
            if name in files and module.lines < most_lines and len(users[name]) == 1
        }

    def runs_twice(self) -> list[str]:
        """Runs of lines that stand in two places, imports and texts apart."""
        first: dict[tuple[str, ...], str] = {}
        found = []
        for module in self.modules.values():
            for index in range(len(module.text) - RUN + 1):
                run = module.text[index : index + RUN]
                home = first.setdefault(run, f"{module.name}: {run[0]}")
                if home != f"{module.name}: {run[0]}":
                    found.append(f"{home} | {module.name}")
        return sorted(set(found))

    def _files(self) -> Iterator[Path]:
        return (path for path in sorted(self.package.rglob("*.py")) if path.name != "__init__.py")

    def _reached(self, name: str) -> set[str]:
        reached: set[str] = set()
        waiting = [name]
        while waiting:
            for other in self.modules[waiting.pop()].imports - reached:
                reached.add(other)
                waiting.append(other)
        return reached


def _dotted(package: Path, path: Path) -> str:
    return ".".join(path.relative_to(package.parent).with_suffix("").parts).removesuffix(".__init__")


def _module(name: str, path: Path, known: frozenset[str]) -> Module:
    source = path.read_text(encoding="utf-8")
    tree = ast.parse(source)
    imports = {_home(imported, known) for _, imported in imported_names(tree)} - {None, name}
    classes = [node.name for node in tree.body if isinstance(node, ast.ClassDef) and not node.name.startswith("_")]
    return Module(
        name,
        len(source.splitlines()),
        frozenset(home for home in imports if home is not None),
        tuple(classes),
        tuple(_code(source, tree)),
    )


def _home(imported: str, known: frozenset[str]) -> str | None:
    """The module that a name of an import comes from: itself, or the one that holds it."""
    if imported in known:
        return imported
    holder = imported.rpartition(".")[0]
    return holder if holder in known else None


def _code(source: str, tree: ast.Module) -> Iterator[str]:
    """Lines that are neither blank, nor an import, nor part of a text alone."""
    out: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, (ast.Import, ast.ImportFrom)) or (
            isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        ):
            out |= set(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    for number, line in enumerate(source.splitlines(), start=1):
        if number not in out and line.strip():
            yield line.strip()
