"""The checkers of the rules: source text in, findings out. An empty list means that the rule holds."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Container, Iterable, Iterator


def imported_names(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Yield line and full name of everything a module imports, inside functions too.

    `from os import path` yields `os.path`, so that a rule can name a module or one thing in it.
    """
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                yield node.lineno, f"{node.module or '.' * node.level}.{alias.name}"


def dotted(node: ast.AST) -> str:
    """Return `a.b.c` for such an expression, and an empty string for any other."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        left = dotted(node.value)
        return f"{left}.{node.attr}" if left else ""
    return ""


def forbidden_imports(source: str, forbidden: Container[str]) -> list[str]:
    """Find imports whose top-level module is forbidden, by statement or by `import_module("a.literal")`."""
    tree = ast.parse(source)
    imports = list(imported_names(tree))
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and dotted(node.func).split(".")[-1] in {"import_module", "__import__"}:
            imports += [(node.lineno, text) for arg in node.args for text in _texts(arg)]
    return [f"line {line}: imports {name}" for line, name in imports if name.split(".")[0] in forbidden]


def imports_at_collection(source: str, heavy: Container[str]) -> list[str]:
    """Find heavy modules that a test's file imports as it is read, by statement or by a function that is given a name:
    each process of pytest reads every file, and most of them run none of its tests.
    """

    def read(nodes: Iterable[ast.AST]) -> Iterator[ast.AST]:
        for node in nodes:
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
                continue  # it runs later, if at all
            if isinstance(node, ast.If) and dotted(node.test) == "TYPE_CHECKING":
                continue
            yield node
            yield from read(ast.iter_child_nodes(node))

    imports: list[tuple[int, str]] = []
    for node in read(ast.parse(source).body):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            imports += imported_names(node)
        elif isinstance(node, ast.Call) and dotted(node.func).split(".")[-1] in IMPORTING:
            imports += [(node.lineno, text) for each in node.args for text in _texts(each)]
    return [f"line {line}: imports {name}" for line, name in imports if name.split(".")[0] in heavy]


IMPORTING = {"import_module", "importorskip", "require_module"}


def environment_readers(source: str) -> list[str]:
    """Find what reaches the process environment: `os.environ`, `os.getenv` and their kin, however os is named."""
    tree = ast.parse(source)
    reach = {"environ", "environb", "getenv", "getenvb", "putenv", "unsetenv"}
    os_names = {"os"}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            os_names |= {alias.asname for alias in node.names if alias.name == "os" and alias.asname}
    found = [(line, name) for line, name in imported_names(tree) if name in {f"os.{word}" for word in reach}]
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr in reach and dotted(node.value) in os_names:
            found.append((node.lineno, f"os.{node.attr}"))
    return [f"line {line}: reaches {name}" for line, name in sorted(found)]


def dangerous_calls(source: str) -> list[str]:
    """Find pickle and its kin, `shell=True`, `os.system`, `os.popen` and `os.fork`."""
    tree = ast.parse(source)
    unsafe = {"os.fork", "os.forkpty", "os.popen", "os.system"}
    findings = forbidden_imports(source, {"cPickle", "cloudpickle", "dill", "marshal", "pickle", "shelve"})
    findings += [f"line {line}: imports {name}" for line, name in imported_names(tree) if name in unsafe]
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        if dotted(node.func) in unsafe:
            findings.append(f"line {node.lineno}: calls {dotted(node.func)}")
        for keyword in node.keywords:
            is_false = isinstance(keyword.value, ast.Constant) and not keyword.value.value
            if keyword.arg == "shell" and not is_false:
                findings.append(f"line {node.lineno}: starts a shell")
    return findings


def log_prefixes(source: str) -> list[str]:
    """Find texts with the prefix of the log lines, docstrings apart: `logs.watchdog` puts it there."""
    tree = ast.parse(source)
    apart = {node.value for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    return [
        f"line {node.lineno}: writes the prefix itself"
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and node not in apart
        for text in _texts(node)
        if "crawl-watchdog" in text
    ]


_UNIT = re.compile(r"(s|ms|min|h|d|B|[KMGT]i?B)(?![\w/])")


def hand_made_units(source: str) -> list[str]:
    """Find numbers that a format cuts to some digits, with a unit of time or size behind: `formats` does that."""
    findings = []
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.JoinedStr):
            continue
        for value, after in zip(node.values, node.values[1:], strict=False):
            text = after.value if isinstance(after, ast.Constant) else None
            if not (isinstance(value, ast.FormattedValue) and isinstance(text, str)):
                continue
            form = ast.unparse(value.format_spec) if value.format_spec else ""
            if re.search(r"\.\d[fg]", form) and _UNIT.match(text.lstrip(" ")):
                findings.append(f"line {node.lineno}: formats {text.split()[0]} by hand")
    return findings


def print_calls(source: str) -> list[str]:
    """Find calls of the built-in `print`: a library logs, only commands write to stdout."""
    return [
        f"line {node.lineno}: calls print"
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Call) and dotted(node.func) == "print"
    ]


def html_makers(source: str) -> list[str]:
    """Find `html.escape` and its kin: a page gets what `formats.html_text` has made of a text."""
    imports = imported_names(ast.parse(source))
    kin = {"html", "html.escape", "xml.sax.saxutils"}
    return [f"line {line}: imports {name}" for line, name in imports if name in kin]


def unreasoned_skips(source: str) -> list[str]:
    """Find `skip`, `skipif`, `xfail` and `importorskip` without a reason, as calls, marks and bare decorators."""
    tree = ast.parse(source)
    called: set[ast.AST] = set()
    findings = []
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        called.add(node.func)
        name = _skip_name(node.func)
        reasons = [keyword.value for keyword in node.keywords if keyword.arg in {"reason", "msg"}]
        if name in {"skip", "xfail"} and "mark" not in dotted(node.func):
            reasons += node.args[:1]
        if name == "skip" and "mark" in dotted(node.func):
            reasons += node.args[:1]
        if name and not any(_says_something(reason) for reason in reasons):
            findings.append(f"line {node.lineno}: {name} without a reason")
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node not in called and ".mark." in dotted(node) and _skip_name(node):
            findings.append(f"line {node.lineno}: {_skip_name(node)} without a reason")
    return findings


_NOQA = re.compile(r"#\s*(?:ruff:\s*)?noqa(?P<rest>.*)", re.IGNORECASE)
_NOQA_FULL = re.compile(r":\s*[A-Z]+\d+(?:\s*,\s*[A-Z]+\d+)*\s*\W*\s*(?P<reason>.*)")
_IGNORE = re.compile(r"#\s*type:\s*ignore(?P<codes>\[[\w\-, ]+\])?\s*\W*\s*(?P<reason>.*)")
_REASON = re.compile(r"[A-Za-z]{2,}.*\s.*[A-Za-z]{2,}")


def unreasoned_suppressions(source: str) -> list[str]:
    """Find `noqa` and `type: ignore` that lack the rule's code or, after it, the reason in at least two words."""
    findings = []
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type != tokenize.COMMENT:
            continue
        ignore, noqa = _IGNORE.search(token.string), _NOQA.search(token.string)
        full = _NOQA_FULL.match(noqa["rest"]) if noqa else None
        if ignore and not (ignore["codes"] and _REASON.search(ignore["reason"].split("# noqa")[0])):
            findings.append(f"line {token.start[0]}: type: ignore without code and reason")
        if noqa and not (full and _REASON.search(full["reason"])):
            findings.append(f"line {token.start[0]}: noqa without code and reason")
    return findings


# Put together here, so that this file does not break the rule it states.
_PLACES = re.compile(
    "|".join(
        [
            r"(?<![\w.~-])/(?:work|root)/[\w.]",
            r"(?<![\w.~-])/opt/\w",
            r"(?<![\w.~-])/(?:home|Users)/(?!(?:user|you|me)\b)\w",
            r"[A-Za-z]:\\{1,2}Users\\{1,2}\w",
        ]
    )
)
_HOSTS = tuple(
    ".".join(parts)
    for parts in (
        ("pypi", "org"),
        ("pythonhosted", "org"),
        ("npmjs", "org"),
        ("deb", "debian", "org"),
        ("download", "pytorch", "org"),
        ("anaconda", "org"),
    )
)


def machine_traces(text: str) -> list[str]:
    """Find paths of one particular machine and hosts of package registries: neither helps another reader."""
    findings = []
    for number, line in enumerate(text.splitlines(), start=1):
        place = _PLACES.search(line)
        if place:
            findings.append(f"line {number}: machine path near {place[0]!r}")
        findings += [f"line {number}: registry host {host}" for host in _HOSTS if host in line]
    return findings


def unsafe_starts(source: str) -> list[str]:
    """Find the words `-m` and `-c`: Python started so looks for modules in the current folder before any other."""
    return [
        f"line {node.lineno}: starts something with {text}"
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Constant)
        for text in _texts(node)
        if text in ("-m", "-c")
    ]


def _texts(node: ast.AST) -> list[str]:
    return [node.value] if isinstance(node, ast.Constant) and isinstance(node.value, str) else []


def _says_something(node: ast.AST) -> bool:
    return not (isinstance(node, ast.Constant) and not (isinstance(node.value, str) and node.value.strip()))


def _skip_name(node: ast.AST) -> str:
    head, _, last = dotted(node).rpartition(".")
    known = {"skip", "skipif", "xfail", "importorskip"}
    return last if last in known and head.split(".")[0] in {"pytest", "mark"} else ""
