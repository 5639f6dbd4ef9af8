"""What of a tree the user wants left out: patterns of the command line, `.gitignore` files, and a largest size.

Patterns are those of git, read by the library `pathspec`: relative to the folder they are of, with `/` and with
letters as they are written, on every system, so that one tree gives the same shards everywhere.

Read are the `.gitignore` of the tree and of each folder in it, whether the tree is a repository or not; where it lies
in one, those of the folders above it, up to the repository's; and the repository's `.git/info/exclude`. A repository in
the tree has its own rules alone. What git is told for a user or a machine (`core.excludesFile`) is not read: a build
is the same for everybody.

Source: git's documentation of gitignore; ripgrep, which reads `.gitignore` above what it is given.
"""

from __future__ import annotations

import os
import re
import stat
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathspec import GitIgnoreSpec

__all__ = ["GITIGNORE", "Filters", "FolderRules", "check_pattern", "parse_size", "pattern_of", "rules_of_tree"]

GITIGNORE, REPOSITORY = ".gitignore", ".git"
NOT_INCLUDED = "--include (not among them)"

MOST_BYTES = 1 << 20
"""Of a file of patterns. What is larger is none that anybody has written, and is not read."""

_GROUP_NAME = re.compile(r"\(\?P<\w+>")


class Patterns:
    """Lines as of a `.gitignore`; what git would pass over, such as a lone `!`, is passed over.

    Args:
        lines: Without the ends of lines.
    """

    def __init__(self, lines: Sequence[str]) -> None:
        self.lines: list[str] = []
        self._compiled: list[Any] = []
        self._spec = self._read(lines) if lines else None
        self._any = _any_of(self._compiled)

    def _read(self, lines: Sequence[str]) -> GitIgnoreSpec:
        from pathspec import GitIgnoreSpec  # late: few trees have patterns

        for line in lines:
            try:
                parsed = GitIgnoreSpec.from_lines([_composed(line)]).patterns
            except ValueError:
                continue
            for pattern in parsed:
                if pattern.include is not None:
                    self.lines.append(line)
                    self._compiled.append(pattern)
        return GitIgnoreSpec(self._compiled)

    def __bool__(self) -> bool:
        return bool(self._compiled)

    def last(self, name: str) -> int | None:
        """The last pattern that says something of this entry itself, by its place; `None` where none does.

        Args:
            name: From the folder of the patterns, composed; that of a folder ends in `/`.
        """
        if self._any is not None and self._any.search(name) is None:
            return None  # as for most of them
        means = (at for at in reversed(range(len(self._compiled))) if _means(self._compiled[at].regex, name))
        return next(means, None)

    def is_negated(self, at: int) -> bool:
        """Whether the pattern at this place takes an entry in again."""
        return not self._compiled[at].include

    def has(self, name: str) -> bool:
        """Whether a file is meant, by itself or by a folder that it lies in."""
        return self._spec is not None and bool(self._spec.match_file(name))


def _means(pattern: re.Pattern[str], name: str) -> bool:
    """Whether a pattern means an entry itself, and not only a folder that it lies in: that has been asked about before.

    A group of the library's expressions is the `/` of a folder that is meant; one without means what is inside.
    """
    for hit in pattern.finditer(name):
        if hit.end(hit.lastindex) == len(name) if hit.lastindex else hit.end() < len(name) or name[-1] != "/":
            return True
    return False


def _any_of(compiled: Iterable[Any]) -> re.Pattern[str] | None:
    """One expression for all: to ask each in turn takes longer than to list a large folder."""
    try:
        return re.compile("|".join(_GROUP_NAME.sub("(?:", each.regex.pattern) for each in compiled) or "(?!)")
    except re.error:
        return None


_SPECIAL = re.compile(r"([\\*?\[\]]|(?<=.) +\Z)")


def pattern_of(name: str) -> str:
    """The pattern that means one file, or folder, and nothing else.

    Args:
        name: From the root, with `/`.
    """
    return "/" + _SPECIAL.sub(lambda found: "".join(f"\\{letter}" for letter in found[0]), name)


_SIZE = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,6})?) ?(?:([kmgt]?)(i?)b?|bytes?)", re.IGNORECASE)


def parse_size(text: str) -> int:
    """Bytes: `20MB` is 20,000,000, `20MiB` and `20M` are 20 times 1,048,576, as other programs have it.

    Raises:
        ValueError: It is no size; the message says what is accepted.
    """
    found = _SIZE.fullmatch(text.strip())
    if found is None or not float(found[1]):
        raise ValueError("accepted: a size such as 500kB, 20MB, 1.5GiB, or a number of bytes")
    letter, is_decimal = (found[2] or "").lower(), text.strip()[-1] in "bB" and not found[3]
    power = "kmgt".index(letter) + 1 if letter else 0
    return round(float(found[1]) * float(1000 if is_decimal else 1024) ** power)


def check_pattern(text: str) -> None:
    """Refuse what would leave out nothing whatever is there.

    Raises:
        ValueError: It is no pattern; the message says what is accepted.
    """
    if not Patterns([text]):
        raise ValueError("accepted: a pattern as in a .gitignore, such as '*.log', 'drafts/' or '/notes/old.md'")


@dataclass(frozen=True)
class Filters:
    """What is left out of a tree by the user's wish.

    Args:
        exclude: Patterns from the root of the tree; `!` takes in again what an earlier one leaves out.
        include: Patterns likewise: where there are any, a file is taken only if they mean it or a folder it lies in.
            They take in nothing that is left out for another reason.
        gitignore: Whether the tree's `.gitignore` files count.
        max_file_bytes: Larger files are left out; `None` for no limit.
    """

    exclude: tuple[str, ...] = ()
    include: tuple[str, ...] = ()
    gitignore: bool = True
    max_file_bytes: int | None = None

    def to_json(self) -> dict[str, Any]:
        """For a message or a file; `of_json` reads it."""
        return {
            "exclude": list(self.exclude),
            "include": list(self.include),
            "gitignore": self.gitignore,
            "max_file_bytes": self.max_file_bytes,
        }

    @classmethod
    def of_json(cls, given: Mapping[str, Any] | None) -> Filters:
        """What `to_json` gave; `None` is no filter but `.gitignore`.

        Raises:
            ValueError: It is nothing that `to_json` gives.
        """
        given = given or {}
        lists = [given.get(name, []) for name in ("exclude", "include")]
        is_used, most = given.get("gitignore", True), given.get("max_file_bytes")
        is_right = all(isinstance(each, list) and all(isinstance(one, str) for one in each) for each in lists)
        if not is_right or not isinstance(is_used, bool) or not (most is None or isinstance(most, int)):
            raise ValueError(f"filters are {given!r:.200}; accepted: what a build has kept")
        return cls(tuple(lists[0]), tuple(lists[1]), is_used, most)

    def words(self) -> list[str]:
        """As they are typed."""
        words = [word for pattern in self.exclude for word in ("--exclude", pattern)]
        words += [word for pattern in self.include for word in ("--include", pattern)]
        words += [] if self.gitignore else ["--no-gitignore"]
        return words + ([] if self.max_file_bytes is None else ["--max-file-size", str(self.max_file_bytes)])

    @cached_property
    def _excluded(self) -> Patterns:
        return Patterns(self.exclude)

    @cached_property
    def _included(self) -> Patterns:
        return Patterns(self.include)

    def why_excluded(self, name: str) -> str | None:
        """Which `--exclude` leaves an entry out. See `Patterns.last` for its name."""
        at = self._excluded.last(name) if self.exclude else None
        if at is None or self._excluded.is_negated(at):
            return None
        return f"--exclude {self._excluded.lines[at]}"

    def is_included(self, name: str) -> bool:
        """Whether a file is among what `--include` names."""
        return not self.include or self._included.has(name)


@dataclass(frozen=True)
class FolderRules:
    """What is left out of one folder of a tree by name.

    Args:
        filters: Of the tree.
        ignores: Of each `.gitignore` that counts here, the outermost first: what stands before a name from the root to
            make it one from its folder, how much of the name is cut off for that, and its patterns.
    """

    filters: Filters = field(default_factory=Filters)
    ignores: tuple[tuple[str, int, Patterns], ...] = ()

    @property
    def are_none(self) -> bool:
        """Nothing is left out by name."""
        return not self.ignores and not self.filters.exclude and not self.filters.include

    def why(self, name: str, *, is_folder: bool) -> str | None:
        """Why an entry is left out, `None` where it is not.

        Args:
            name: From the root of the tree, with `/`.
            is_folder: What is in one that is left out is left out.
        """
        if self.are_none:
            return None
        name = _composed(name) + ("/" if is_folder else "")
        for before, cut, patterns in reversed(self.ignores):
            if (at := patterns.last(before + name[cut:])) is not None:
                if not patterns.is_negated(at):
                    return GITIGNORE
                break
        if (excluded := self.filters.why_excluded(name)) is not None:
            return excluded
        return None if is_folder or self.filters.is_included(name) else NOT_INCLUDED

    def of(self, folder: str, name: str, entries: Iterable[str]) -> FolderRules:
        """The rules of a folder inside.

        Args:
            folder: Where it is.
            name: From the root, empty for the root itself.
            entries: The names in it.
        """
        if not self.filters.gitignore:
            return self
        found = {entry for entry in entries if entry in (GITIGNORE, REPOSITORY)}
        if not found:
            return self
        ignores, cut = self.ignores, len(_composed(name)) + 1 if name else 0
        if REPOSITORY in found:
            ignores = _layer(_excluded_by_repository(folder), "", cut)
        if GITIGNORE in found:
            ignores += _layer(os.path.join(folder, GITIGNORE), "", cut)  # noqa: PTH118 - in the walk, for its speed
        return FolderRules(self.filters, ignores)


def rules_of_tree(root: Path, filters: Filters) -> FolderRules:
    """Those that hold at the root of a tree by what lies above it.

    Args:
        root: The tree, as it is on the disk; a file is a tree as well.
        filters: Of the tree.
    """
    if not filters.gitignore or (root / REPOSITORY).exists():
        return FolderRules(filters)
    above = list(root.parents)
    depth = next((depth for depth, folder in enumerate(above) if (folder / REPOSITORY).exists()), None)
    if depth is None:
        return FolderRules(filters)
    repository = above[depth]
    ignores = _layer(_excluded_by_repository(str(repository)), f"{root.relative_to(repository).as_posix()}/", 0)
    for folder in reversed(above[: depth + 1]):
        before = f"{root.relative_to(folder).as_posix()}/"
        ignores += _layer(str(folder / GITIGNORE), before, 0)
    return FolderRules(filters, ignores)


def _excluded_by_repository(folder: str) -> str:
    return str(Path(folder) / REPOSITORY / "info" / "exclude")


def _layer(path: str, before: str, cut: int) -> tuple[tuple[str, int, Patterns], ...]:
    patterns = Patterns(_lines(path))
    return ((_composed(before), cut, patterns),) if patterns else ()


def _lines(path: str) -> list[str]:
    """Of a file of patterns; none where there is no such file, or it cannot be read: git passes it over as well."""
    try:
        # A pipe of that name would be waited for.
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
        with os.fdopen(descriptor, "rb") as file:
            about = os.fstat(descriptor)
            if not stat.S_ISREG(about.st_mode) or about.st_size > MOST_BYTES:
                return []
            text = file.read(MOST_BYTES)
    except OSError:
        return []
    return text.removeprefix(b"\xef\xbb\xbf").decode("utf-8", "surrogateescape").split("\n")


def _composed(name: str) -> str:
    """macOS may list a name in another form than it is typed in."""
    return name if name.isascii() else unicodedata.normalize("NFC", name)
